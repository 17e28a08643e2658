"""Recede knows its version, installed or not."""

from recede import version


def test_a_checkout_that_was_never_installed_knows_its_version(monkeypatch):
    def missing(package):
        raise version.PackageNotFoundError(package)

    installed = version.version("recede")
    monkeypatch.setattr(version, "version", missing)
    assert version._version() == installed
