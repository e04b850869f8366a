"""Why a client that speaks TLS, or does not, is not let in: clients themselves hardly say."""

import socket
import ssl
from pathlib import Path
from typing import Final

TIMEOUT_S: Final = 2.0


def handshake_fault(
    host: str,
    port: int,
    ca: Path | str | None,
    certificate: Path | str | None,
    key: Path | str | None,
) -> str | None:
    """What is wrong with the TLS of a server, seen with our files; None: nothing that shows."""
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        return f"our certificate files cannot be used ({error})"
    try:
        with (
            socket.create_connection((host, port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as safe,
        ):
            return _refusal(safe, f"{host}:{port}", certificate)
    except ssl.SSLCertVerificationError as error:
        return (
            f"{host}:{port} shows a certificate that is not trusted ({error.verify_message}): "
            "check the CA file, and that the address is one that the certificate names"
        )
    except ssl.SSLError as error:
        return (
            f"{host}:{port} does not speak TLS as we do ({error.reason}): check port and protocol"
        )
    except TimeoutError:
        return f"{host}:{port} does not answer a TLS handshake: check port and protocol"
    except OSError as error:
        return f"{host}:{port} cannot be reached ({error})"


def _refusal(safe: ssl.SSLSocket, where: str, certificate: Path | str | None) -> str | None:
    """What a server has against our certificate: of TLS 1.3 that comes after the handshake."""
    try:
        safe.recv(1)
    except TimeoutError:
        return None  # it waits for us to speak: we are let in
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error)
        if certificate is None:
            return (
                f"{where} ends the connection ({reason}): if it asks for a client certificate, "
                "set the CERT and KEY files"
            )
        return (
            f"{where} does not take our certificate ({reason}): check that an authority which it "
            "knows signed the CERT file"
        )
    return None
