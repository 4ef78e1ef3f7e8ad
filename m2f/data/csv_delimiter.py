"""What stands between the values of a csv file: in Europe, spreadsheets write semicolons."""

_DELIMITERS = ",;\t"


def delimiter_of(header: str) -> str:
    """The one of comma, semicolon and tab that a csv's first line has most of; a comma where it has none."""
    return max(_DELIMITERS, key=header.count)
