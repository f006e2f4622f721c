"""Who may ask: settings of keys and browsers, and the answer to those who may not."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, SecretStr, field_validator, model_validator

from serve.api.errors import ApiError
from serve.api.keys import Keys


class Security(BaseModel):
    """Who may ask, and what browsers may do"""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    api_key: SecretStr | None = None
    """A key that clients send as ``Authorization: Bearer …``. Without this and ``keys_file``
    everybody may ask."""
    keys_file: Path | None = None
    """Keys by name, made by ``twinserve keys new``; read again when it changes."""
    admin_key: SecretStr | None = None
    """The key of the admin routes, which do not exist without one; the keys file may hold more."""
    metrics_key: bool = False
    """Whether ``/metrics`` asks for an API key too."""
    cors_origins: list[str] = []
    """Origins whose pages may ask from a browser, as in ``["https://app.example"]``; ``"*"`` is all."""
    docs: bool = False
    """Whether ``/docs`` and ``/redoc`` show the API; their pages load scripts from a CDN."""

    @field_validator("api_key", "admin_key")
    @classmethod
    def _is_secret(cls, key: SecretStr | None) -> SecretStr | None:
        value = "" if key is None else key.get_secret_value()
        if key is not None and not value.strip("*"):
            # What --print-config shows in a key's place would otherwise become the key.
            raise ValueError("it is empty or a printed mask; give the key itself")
        if value != value.strip():
            raise ValueError("it begins or ends with white space")
        return key

    @model_validator(mode="after")
    def _two_keys(self) -> Self:
        if self.api_key is not None and self.api_key == self.admin_key:
            raise ValueError("api_key and admin_key are the same: whoever may ask could administer")
        return self

    def keys(self) -> Keys:
        """The keys that these settings name. Raises InputError for a file that cannot be read."""
        return Keys(self.keys_file, self.api_key, self.admin_key)


def unauthorized(authorization: bytes, what: str) -> ApiError:
    """The 401 for a request without the key that it needs."""
    said = (
        f"The {what} in the Authorization header is not known here."
        if authorization
        else f"Send an {what}, in the header Authorization: Bearer KEY."
    )
    return ApiError(401, said, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
