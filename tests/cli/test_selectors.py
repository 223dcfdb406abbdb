"""Label selectors."""

import pytest

from mcpctl.cli.errors import CliError
from mcpctl.cli.selectors import Selector

LABELS = {"app": "shop", "tier": "web"}


@pytest.mark.parametrize("text", ["app=shop", "app==shop", "app", "tier!=db", "!old", "app=shop,tier=web", "x!=y"])
def test_a_selector_that_fits(text):
    assert Selector.parse(text).fits(LABELS)


@pytest.mark.parametrize("text", ["app=bank", "app!=shop", "old", "!app", "app=shop,tier=db", "app="])
def test_a_selector_that_does_not_fit(text):
    assert not Selector.parse(text).fits(LABELS)


@pytest.mark.parametrize("text", ["", "=shop", "a=b,,c=d", "!", "!=x", "a in (b)", "!bad key", "a=b c"])
def test_what_is_no_selector_is_refused(text):
    with pytest.raises(CliError, match="is no label selector"):
        Selector.parse(text)
