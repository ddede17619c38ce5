"""A search folder with files that are no text: told with the file."""

import pytest
from fake_training import toy

from search.errors import SearchError
from search.store.folder import enter
from search.store.ledger import Ledger


def test_a_space_that_is_no_text_is_told(tmp_path):
    (tmp_path / "space.txt").write_bytes(b"\xff\n")
    with pytest.raises(SearchError, match=r"space\.txt: expected the space of a search"):
        enter(tmp_path, toy(tmp_path))


@pytest.mark.parametrize("content", [b"\xff", b"3", b'"text"', b"[]"])
def test_a_record_that_is_none_is_told(content, tmp_path):
    (tmp_path / "trial-0.json").write_bytes(content)
    with pytest.raises(SearchError, match=r"trial-0\.json: expected the record of a trial"):
        Ledger(tmp_path)
