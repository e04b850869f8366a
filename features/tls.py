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
            context.wrap_socket(plain, server_hostname=host),
        ):
            return None
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
