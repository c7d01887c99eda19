"""Keeps a router's certificate as its files have it, once a second and on SIGHUP. IO: threads, the files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.router.http.tls_files import ServerTls, TlsFiles

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.settings import RouterSettings

LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks."""


def server_tls(settings: RouterSettings, wall_clock: Callable[[], float]) -> ServerTls | None:
    """Return the TLS that settings ask for; raise `ConfigError` where it cannot be had, or a file is not named."""
    certificate, key, client_ca = (
        settings.tls_certificate,
        settings.tls_key,
        settings.tls_client_ca,
    )
    if certificate is None and key is None:
        if client_ca is not None:
            raise ConfigError(
                f"--tls-client-ca {client_ca} asks for certificates of clients, for which the router needs its own: give"
                " --tls-cert and --tls-key, too"
            )
        return None
    if certificate is None or key is None:
        given = f"--tls-key {key}" if certificate is None else f"--tls-cert {certificate}"
        raise ConfigError(f"{given} is given alone: --tls-cert and --tls-key belong together")
    return ServerTls(TlsFiles(certificate, key, client_ca), wall_clock)


class TlsWatch:
    """The watch of one router's process over the files of its certificate."""

    def __init__(self, tls: ServerTls, log: FilteringBoundLogger) -> None:
        self._tls = tls
        self._log = log
        self._is_due = asyncio.Event()
        if tls.is_exposed:
            self._warn_exposed()
        if tls.is_expired:
            log.warning("certificate_expired", file=str(tls.files.certificate))

    @override
    def __repr__(self) -> str:
        return f"TlsWatch({self._tls!r})"

    def hasten(self) -> None:
        """Look now."""
        self._is_due.set()

    async def run(self) -> None:
        """Look again and again, until cancelled; a disk that hangs keeps nobody but this."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._is_due.wait()
            self._is_due.clear()
            await self.look()

    async def look(self) -> None:
        """Look whether the files are others, and go by them if they can be used."""
        tls = self._tls
        try:
            is_new = await asyncio.to_thread(tls.look)
        except ConfigError as error:
            self._log.error("certificate_refused", error=error.message)
            return
        except Exception:  # noqa: BLE001 - whatever it is, the router goes on
            self._log.exception("certificate_not_looked_at")
            return
        if is_new:
            self._log.info("certificate_reloaded", file=str(tls.files.certificate))
            if tls.is_exposed:
                self._warn_exposed()

    def _warn_exposed(self) -> None:
        self._log.warning(
            "tls_key_exposed",
            file=str(self._tls.files.key),
            what_to_do="other users of this machine may read it: chmod 600",
        )
