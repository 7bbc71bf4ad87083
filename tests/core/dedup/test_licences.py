"""Licences in the words of Commons, Flickr and others, from the freest to what says nothing."""

from __future__ import annotations

import pytest

from dcgan_core.dedup.licences import OPENNESS, openness


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("CC0", "public domain"),
        ("CC0 1.0 Universal", "public domain"),
        ("Public domain", "public domain"),
        ("PDM 1.0", "public domain"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "public domain"),
        ("No known copyright restrictions", "public domain"),
        ("CC BY 2.0", "attribution"),
        ("cc-by-3.0", "attribution"),
        ("https://creativecommons.org/licenses/by/4.0/", "attribution"),
        ("Attribution", "attribution"),
        ("CC BY-SA 4.0", "share alike"),
        ("cc-by-sa-3.0,2.5,2.0,1.0", "share alike"),
        ("GFDL", "share alike"),
        ("CC BY-NC 2.0", "non-commercial"),
        ("https://creativecommons.org/licenses/by-nc-sa/2.0/", "non-commercial"),
        ("CC BY-ND 2.0", "no derivatives"),
        ("CC BY-NC-ND 4.0", "no derivatives"),
        ("by", "attribution"),
        ("All rights reserved", "unknown"),
        ("All rights reserved by John Doe", "unknown"),
        ("Photo by X, all rights reserved", "unknown"),
        ("Used by permission", "unknown"),
        ("Photo by X", "unknown"),
        ("Nur mit Genehmigung", "unknown"),
        ("Not in the public domain", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_a_licence_is_as_free_as_what_it_asks_for(words: str | None, kind: str) -> None:
    assert openness(words) == OPENNESS[kind]
