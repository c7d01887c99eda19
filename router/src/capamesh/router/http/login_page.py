"""The page that asks a browser for a key, where keys are asked for, and the route that takes it. IO: aiohttp's requests.

What is sent is one field of a form, which a page of another origin cannot send (`cross_origin`); the answer is a cookie
that reads the page and does nothing else (`page_logins`), and that scripts do not see.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final
from urllib.parse import parse_qs

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.router.access.page_logins import LASTS_S
from capamesh.router.http.bodies import read_body
from capamesh.router.http.errors import CHALLENGE, CODE, error_response
from capamesh.router.http.key_check import CHALLENGED, KEYS, login_cookie
from capamesh.router.http.route import EVERYBODY, Content, Pages, Route
from capamesh.router.http.safe_pages import SAFE

PATH: Final = "/login"
OUT: Final = "/logout"
FIELD: Final = "key"
MAX_FORM_BYTES: Final = 4096
"""The largest form: a key has 44 characters, the operator's 64."""
ARRIVAL_S: Final = 10.0
"""Seconds for a form to arrive (guess: it fits into the packet of its head)."""
_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 26rem; margin: 15vh auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; }
input, button { font: inherit; padding: .5rem; width: 100%; box-sizing: border-box; margin-top: .5rem; }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
_HTML: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Capamesh: log in</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>This router asks for a key</h1>
<p role="status">{said}</p>
<form method="post" action="{root}login">
<label for="key">A key that may read, or the operator's key</label>
<input id="key" name="key" type="password" autocomplete="current-password" maxlength="128" required autofocus>
<button type="submit">Log in</button>
</form>
<p>The router's operator makes keys with <code>capamesh keys create NAME --may read</code>. The operator's own is the content of
<code>operator.key</code> in the router's data folder, which is new at each start.</p>
</main>
</body>
</html>
"""
_ASKED: Final = (
    "Log in to look at the network. It holds for 12 hours, and lets this browser read alone."
)
_REFUSED: Final = "This key is not taken: it is unknown, has ended, or may not read the network."


def login_page(
    request: web.Request, refusal: web.StreamResponse, said: str = _ASKED
) -> web.Response:
    """Return the page in the place of a refusal; `said` is text of this module's, never of a request's."""
    root = "../" * (request.path.count("/") - 1)
    return web.Response(
        status=refusal.status,
        text=_HTML.format(style=_STYLE, said=said, root=root),
        content_type="text/html",
        headers={
            **SAFE,
            CODE: refusal.headers[CODE],
            "Content-Security-Policy": _POLICY,
            "Cache-Control": "no-store",
            CHALLENGED: CHALLENGE,  # no name and password, for which a browser would ask in a window of its own
        },
    )


def is_asked_for(request: web.Request) -> bool:
    """Return whether a browser asks for a page that people read."""
    return request.method in {"GET", "HEAD"} and "text/html" in request.headers.get("Accept", "")


class LoginApi(Pages):
    """`POST /login` and `POST /logout`."""

    @override
    def routes(self) -> list[Route]:
        form = (Content(str, "application/x-www-form-urlencoded"),)
        page = (Content(str, "text/html"),)
        errors, others = (400, 401, 403, 404, 413), {303: ()}
        return [
            Route("POST", PATH, self.login, EVERYBODY, page, form, errors=errors, others=others),
            Route("POST", OUT, self.logout, EVERYBODY, others=others),
        ]

    async def login(self, request: web.Request) -> web.Response:
        """Take the key in a form's field `key`, and let the browser that sent it read the page for 12 hours, by a cookie.

        `303` leads to the page; a key that may not read is told so by the page that asks for one.
        """
        body = await read_body(request, arrival_s=ARRIVAL_S, most_bytes=MAX_FORM_BYTES)
        given = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8).get(FIELD, [""])[0]
        keys = request.app.get(KEYS)
        if keys is None or not keys.ring.is_required:
            raise web.HTTPNotFound  # nobody has to log in
        try:
            text = keys.login(given.strip())
        except CapameshError as error:
            return login_page(request, error_response(error), _REFUSED)
        return _led_to_page(request, text, LASTS_S)

    async def logout(self, request: web.Request) -> web.Response:
        """Have the browser forget its login; `303` leads to the page. The login of a browser that keeps it ends with its time."""
        return _led_to_page(request, "", 0)


def _led_to_page(request: web.Request, login: str, lasts_s: int) -> web.Response:
    """Return what leads a browser to the page, with `login` as its cookie."""
    secure = "; Secure" if request.secure else ""
    cookie = f"{login_cookie(request.host)}={login}; Max-Age={lasts_s}; HttpOnly; SameSite=Strict{secure}"
    return web.Response(status=303, headers={"Location": "./", "Set-Cookie": cookie})
