"""The table of bad input is whole: each row is some test's, and asks for a field, a value and a remedy."""

from pathlib import Path

import pytest
from bad_input_table import TABLE

TESTS = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("test_bad_input_[!t]*.py")))


@pytest.mark.parametrize("name", TABLE)
def test_a_row_is_given_by_a_test_and_asks_for_field_value_and_remedy(name: str) -> None:
    row = TABLE[name]
    assert f'"{name.partition(", v")[0]}' in TESTS
    assert all((row.by, row.field, row.value, row.remedy))
