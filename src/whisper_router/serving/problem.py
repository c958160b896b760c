"""Errors of the HTTP service in OpenAI's shape."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse


class Problem(Exception):  # noqa: N818
    """An answer that is an error: status, code, and what the client can do."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """The error as JSON."""
        return JSONResponse({"error": self.body()}, self.status, self.headers)

    def body(self) -> dict[str, Any]:
        """OpenAI's fields."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code}
