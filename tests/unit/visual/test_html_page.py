"""Self-contained pages: escaping, the shared style, no access to a network."""

import json
import re

import pytest

from raydet3d.visual.html_page import html_page, json_script


def test_a_page_loads_nothing_from_elsewhere_and_has_the_shared_style():
    page = html_page("a < b & c", "<p>text</p>", script="let a = 1;")
    assert "<title>a &lt; b &amp; c</title>" in page
    assert "--true:" in page
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)=|@import|url\(", page)


def test_texts_in_data_cannot_end_their_element():
    element = json_script("data", {"name": "</script><b>"})
    assert element.count("</script>") == 1
    assert json.loads(element.partition(">")[2].rpartition("</script>")[0]) == {"name": "</script><b>"}


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_script("data", [float("nan")])
