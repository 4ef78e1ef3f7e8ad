"""What every part needs that writes: text made safe for where it goes, one writer a folder, errors that name files."""
