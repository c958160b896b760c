"""Messages for the user."""

import pytest

from whisper_router.errors import UserError


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "in postgresql+psycopg2://whisper:s3cret@head:5432/mlflow: no",
            "in postgresql+psycopg2://whisper:***@head:5432/mlflow: no",
        ),
        ("https://:token@host/x and https://a:b%40c@host", "https://:***@host/x and https://a:***@host"),
        ("https://host:8000/a@b and https://user@host", "https://host:8000/a@b and https://user@host"),
        ("sqlite:////a/b.db, at 10:20, a@b", "sqlite:////a/b.db, at 10:20, a@b"),
    ],
)
def test_passwords_of_urls_are_hidden(said, shown):
    assert str(UserError(said)) == shown
