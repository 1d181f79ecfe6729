"""A Redis that accepts only TLS with a client certificate, and the authority that signs the certificates."""

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.broker.redis_server import RedisServer

DAY = dt.timedelta(days=1)


class CertificateAuthority:
    """Signs certificates for this machine, as PEM files in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _x509_name("An authority for these tests")
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        certificate = self._begin("An authority for these tests", self._key).add_extension(
            constraints, critical=True
        )
        self.certificate = folder / "ca.pem"
        self.certificate.write_bytes(_pem(certificate.sign(self._key, hashes.SHA256())))

    def issue(self, name: str, host: str = "localhost") -> tuple[Path, Path]:
        """Return the files of a new certificate for *host* and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        hosts = x509.SubjectAlternativeName([x509.DNSName(host)])
        signed = self._begin(name, key).add_extension(hosts, critical=False).sign(self._key, hashes.SHA256())
        files = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        files[0].write_bytes(_pem(signed))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files

    def _begin(self, name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_x509_name(name))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )


class TlsServer(RedisServer):
    """A Redis at `localhost` that accepts only TLS."""

    def __init__(self, folder: Path, authority: CertificateAuthority, *options: str) -> None:
        super().__init__(folder, *options)
        self._authority = authority

    @property
    def url(self) -> str:
        return f"rediss://localhost:{self.port}/0"

    def _arguments(self, port: int) -> list[str]:
        certificate, key = self._authority.issue("server")
        return [
            *super()._arguments(0),
            *("--tls-port", str(port)),
            *("--tls-cert-file", str(certificate)),
            *("--tls-key-file", str(key)),
            *("--tls-ca-cert-file", str(self._authority.certificate)),
            *("--tls-auth-clients", "yes"),
        ]


def _x509_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
