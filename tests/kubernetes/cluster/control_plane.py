"""etcd, API server, controllers and scheduler on loopback, and the ways to talk to them."""

import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import trustme
import yaml

from deploy.ports import HOST, free_port
from deploy.processes import Program, running
from tests.helm import CACHE as TOOLS
from tests.helm import CHART
from tests.kubernetes.cluster.binaries import binary

START_TIMEOUT_S: Final = 120.0
NAMESPACE: Final = "shop"
SYNC_S: Final = 2
"""How often replicas are compared with what is wished for; Kubernetes's own is 15 s."""


@dataclass(frozen=True)
class Cluster:
    """A running API server, and a folder with what proves us to it."""

    folder: Path
    url: str

    def client(self) -> httpx.Client:
        """HTTP towards the API server, as its administrator."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        context.load_cert_chain(self.folder / "admin.pem", self.folder / "admin-key.pem")
        return httpx.Client(base_url=self.url, verify=context, trust_env=False, timeout=30)

    def kubectl(self, *arguments: str, given: Any = None, timeout_s: float = 120) -> str:
        """What a kubectl command prints; `given` are objects for its standard input."""
        done = self._run("kubectl", *arguments, given=given, timeout_s=timeout_s)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def helm(
        self, *arguments: str, values: Mapping[str, Any] | None = None, timeout_s: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """A helm command in the namespace, whatever comes of it."""
        where = ["--namespace", NAMESPACE]
        if values is not None:
            file = self.folder / "values.yaml"
            file.write_text(yaml.safe_dump(dict(values)))
            where += ["--values", str(file)]
        return self._run("helm", *arguments, *where, timeout_s=timeout_s)

    def release(self, values: Mapping[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
        """Install or upgrade the chart, and wait until its pods are ready."""
        wait = ("--wait", "--timeout", "180s")
        return self.helm("upgrade", "--install", "feed", str(CHART), *wait, *options, values=values)

    def get(self, kind: str, *name: str) -> Any:
        """An object of the namespace, or the list of a kind."""
        found = json.loads(self.kubectl("-n", NAMESPACE, "get", kind, *name, "-o", "json"))
        return found["items"] if not name else found

    def _run(
        self, tool: str, *arguments: str, given: Any = None, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        home = {f"HELM_{k}_HOME": str(TOOLS / k.lower()) for k in ("CACHE", "CONFIG", "DATA")}
        return subprocess.run(
            [str(TOOLS / tool), "--kubeconfig", str(self.folder / "kubeconfig"), *arguments],
            input=None if given is None else json.dumps(given),
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), **home},
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip


@contextmanager
def control_plane(folder: Path) -> Iterator[Cluster]:
    """A control plane inside the `with`; its data is in the folder, and nothing is left running."""
    _proofs(folder)
    store, peers, port = free_port(), free_port(), free_port()
    cluster = Cluster(folder, f"https://{HOST}:{port}")
    _kubeconfig(folder, cluster.url)
    with ExitStack() as stack, cluster.client() as client:

        def ready(_: int) -> bool:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.HTTPError:
                return False

        def has_etcd(at: int) -> bool:
            try:
                return httpx.get(f"http://{HOST}:{at}/health", trust_env=False).status_code == 200
            except httpx.HTTPError:
                return False

        programs = [
            Program("etcd", _etcd(folder, store, peers), store, has_etcd),
            Program("kube-apiserver", _api(folder, store, port), port, ready),
            *(_controller(folder, name) for name in ("controller-manager", "scheduler")),
        ]
        for program in programs:
            log = folder / f"{program.name}.log"
            stack.enter_context(running(program, log, START_TIMEOUT_S))
        yield cluster


def _etcd(folder: Path, port: int, peers: int) -> list[str]:
    program = shutil.which("etcd")
    assert program is not None
    own, other = f"http://{HOST}:{port}", f"http://{HOST}:{peers}"
    return [
        *(program, "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync"),
        *("--listen-client-urls", own, "--advertise-client-urls", own),
        *("--listen-peer-urls", other, "--initial-advertise-peer-urls", other),
        *("--initial-cluster", f"default={other}"),
    ]


def _api(folder: Path, store: int, port: int) -> list[str]:
    options = {
        "etcd-servers": f"http://{HOST}:{store}",
        "bind-address": HOST,
        "secure-port": str(port),
        "tls-cert-file": "server.pem",
        "tls-private-key-file": "server-key.pem",
        "client-ca-file": "ca.pem",
        "authorization-mode": "RBAC",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": "server.pem",
        "service-account-signing-key-file": "server-key.pem",
        "service-cluster-ip-range": "10.96.0.0/16",
        # A cluster so small needs no cache, and Debian's etcd is older than the cache asks for.
        "watch-cache": "false",
        # Other API servers behind this one: the metrics.
        "proxy-client-cert-file": "admin.pem",
        "proxy-client-key-file": "admin-key.pem",
        "requestheader-client-ca-file": "ca.pem",
    }
    return [binary("kube-apiserver"), *_flags(folder, options)]


def _controller(folder: Path, name: str) -> Program:
    port = free_port()
    options = {"kubeconfig": "kubeconfig", "bind-address": HOST, "secure-port": str(port)}
    options |= {"leader-elect": "false", "kube-api-qps": "100", "kube-api-burst": "200"}
    if name == "controller-manager":
        options |= {
            "service-account-private-key-file": "server-key.pem",
            "root-ca-file": "ca.pem",
            "horizontal-pod-autoscaler-sync-period": f"{SYNC_S}s",
            "horizontal-pod-autoscaler-initial-readiness-delay": "1s",
            "horizontal-pod-autoscaler-cpu-initialization-period": "1s",
            # Nobody sends the simulated nodes' signs of life.
            "node-monitor-grace-period": "3600s",
        }

    def healthy(at: int) -> bool:
        try:
            url = f"https://{HOST}:{at}/healthz"
            return httpx.get(url, verify=_anybody(), trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    program = f"kube-{name}"
    return Program(program, [binary(program), *_flags(folder, options)], port, healthy)


def _anybody() -> ssl.SSLContext:
    """The controllers make certificates of their own."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _flags(folder: Path, options: Mapping[str, str]) -> list[str]:
    files = (".pem", "kubeconfig")
    return [
        f"--{name}={folder / value if value.endswith(files) else value}"
        for name, value in options.items()
    ]


def _proofs(folder: Path) -> None:
    """Certificates: the server's, and an administrator's."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    admin = authority.issue_cert(
        "admin.example", common_name="admin", organization_name="system:masters",
        key_type=trustme.KeyType.RSA,
    )  # fmt: skip
    server = authority.issue_cert(
        HOST, "localhost", "kubernetes.default.svc", key_type=trustme.KeyType.RSA
    )
    for name, pair in (("admin", admin), ("server", server)):
        for part in pair.cert_chain_pems:
            part.write_to_path(folder / f"{name}.pem", append=True)
        pair.private_key_pem.write_to_path(folder / f"{name}-key.pem")


def _kubeconfig(folder: Path, url: str) -> None:
    said = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [
            {
                "name": "it",
                "cluster": {"server": url, "certificate-authority": str(folder / "ca.pem")},
            }
        ],
        "users": [
            {
                "name": "it",
                "user": {
                    "client-certificate": str(folder / "admin.pem"),
                    "client-key": str(folder / "admin-key.pem"),
                },
            }
        ],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(said))
