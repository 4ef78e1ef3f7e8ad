# Sourced by scripts that make environments.

# activate_environment FOLDER: makes it where it is missing.
activate_environment() {
    # pip comes last: without it the making was interrupted.
    [ -x "$1/bin/pip" ] || "${PYTHON:-python3}" -m venv "$1"
    . "$1/bin/activate"
}

# transformers' common tests are in its source distribution only, which is unpacked; those of its models are in its
# repository only, of which the variable may name a checkout.
unpack_transformers() {
    local release
    release="transformers-$(python -c 'from importlib.metadata import version; print(version("transformers"))')"
    export M2F_TRANSFORMERS_SOURCE="${M2F_TRANSFORMERS_SOURCE:-$VIRTUAL_ENV/source/$release}"
    [ -f "$M2F_TRANSFORMERS_SOURCE/tests/test_modeling_common.py" ] && return
    python -m pip download --quiet --no-deps --no-build-isolation --no-binary transformers \
        -d "$VIRTUAL_ENV/source" "${release/-/==}"
    tar -xzf "$VIRTUAL_ENV/source/$release.tar.gz" -C "$VIRTUAL_ENV/source"
}
