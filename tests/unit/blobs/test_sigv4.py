from __future__ import annotations

import calendar

import pytest

from daemon.blobs.sigv4 import Signer, object_url
from daemon.config.types import SecretStr

NOW = calendar.timegm((2026, 3, 4, 5, 6, 7))
R2 = "https://acc.r2.cloudflarestorage.com"


def signature(url: str) -> str:
    return url.rpartition("&X-Amz-Signature=")[2]


def test_the_published_example_comes_out() -> None:
    """AWS' own test vector for a presigned GET."""
    signer = Signer("AKIAIOSFODNN7EXAMPLE", SecretStr("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), "us-east-1")
    then = calendar.timegm((2013, 5, 24, 0, 0, 0))
    url = signer.presigned("GET", "https://examplebucket.s3.amazonaws.com/test.txt", now=then, expires_s=86400)
    assert signature(url) == "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"


@pytest.mark.parametrize(
    ("region", "method", "key", "headers", "expected"),
    [
        ("auto", "GET", "images/xyz.jpg", {}, "357c25c72345ad1b194e247850dfc7b4353a2ff158cd5e1d776af8f5fafd7b88"),
        ("auto", "GET", "odd/ü +&=%~(1)'.png", {}, "811c87eebd054216c5274802d1c6a75812013dcebddb616bbe3e2333655250c7"),
        (
            "eu-central-1",
            "PUT",
            "qstreamd/a/b.jpg",
            {"Content-Type": "image/jpeg", "Content-Length": "12345"},
            "4ff7b2976209ee6996515294106db898609db71539eb81457e0f0970127ee00c",
        ),
        ("auto", "DELETE", "a/b:c@d.webp", {}, "982a2adb50a18a86867ee085a24abb29e69cbc8a5d08f0a773f7478e5607834e"),
    ],
)
def test_the_vendor_s_own_package_signs_the_same(
    region: str, method: str, key: str, headers: dict[str, str], expected: str
) -> None:
    """Signatures of botocore 1.44 for the same moment, keys and expiry (300 s)."""
    signer = Signer("AKID", SecretStr("SECRET"), region)
    url = signer.presigned(method, object_url(R2, "images", key), now=NOW, expires_s=300, headers=headers)
    assert signature(url) == expected
    assert ("content-length%3Bcontent-type%3Bhost" in url) == bool(headers)


def test_an_address_is_path_style_and_encoded_once() -> None:
    assert object_url(f"{R2}/", "b", "a b/ü?.jpg") == f"{R2}/b/a%20b/%C3%BC%3F.jpg"


def test_a_signer_shows_no_secret() -> None:
    assert "SECRET" not in repr(Signer("AKID", SecretStr("SECRET"), "auto"))
