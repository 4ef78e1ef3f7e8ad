import pytest

from m2f.commands.data_arguments import reader_option


def test_values_are_json_and_other_words_text():
    assert reader_option("a=[1, 2]") == ("a", [1, 2]) and reader_option("task=x") == ("task", "x")
    with pytest.raises(ValueError, match="'nonsense'.*NAME=VALUE"):
        reader_option("nonsense")
