"""Starts OpenBao and ministack for the quickstart, on free ports in a temporary directory, and
stops them again.

Each is started with an empty environment: the person's own settings must not change the result.
"""

import os
import pathlib
import re
import signal
import subprocess
import time
import urllib.request

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "target" / "tools" / "bin"
START_SECONDS_MAX = 30


class Server:
    """A child process whose output goes to a file, and the address at which it answers."""

    def __init__(self, name, argv, env, cwd):
        if not (TOOLS / argv[0]).exists():
            raise SystemExit(f"{argv[0]} is missing; run `make tools`")
        self.name = name
        self.log = cwd / f"{name}.log"
        environment = {"HOME": str(cwd), "TMPDIR": str(cwd), "PATH": "/usr/bin:/bin", **env}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [str(TOOLS / argv[0]), *argv[1:]],
                stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=cwd, start_new_session=True,
            )
        self.address = None

    def wait(self, find_address):
        """Waits until `find_address` returns an address at which the server answers."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            self.address = find_address(self)
            if self.address and answers(self.address):
                return self.address
            time.sleep(0.02)
        raise SystemExit(f"{self.name} did not start; its log:\n{self.log.read_text(errors='replace')[-2000:]}")

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def answers(address):
    try:
        urllib.request.urlopen(address, timeout=1).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def start_openbao(directory, root_token):
    """A development server: in memory, unsealed, with one root token."""
    (directory / "bao.hcl").write_text("disable_clustering = true\n")
    server = Server("openbao", [
        "bao", "server", "-dev", "-config=bao.hcl", f"-dev-root-token-id={root_token}",
        "-dev-listen-address=127.0.0.1:0", "-dev-no-store-token", "-log-level=warn",
    ], {}, directory)
    return server, server.wait(lambda s: listening_address(s.process.pid))


def start_ministack(directory, account, region):
    """An AWS emulator that enforces IAM: session policies, denies by session tag, the time."""
    server = Server("ministack", ["ministack"], {
        "AUTH": "true", "GATEWAY_PORT": "0", "BIND_HOST": "127.0.0.1", "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0", "MINISTACK_ACCOUNT_ID": account, "MINISTACK_REGION": region,
        "AWS_ACCESS_KEY_ID": "AKIAROOTROOTROOTROOT", "AWS_SECRET_ACCESS_KEY": "root-secret",
    }, directory)

    def address(server):
        found = re.search(r"Running on (http://127\.0\.0\.1:\d+)", server.log.read_text(errors="replace"))
        return found and found.group(1)

    return server, server.wait(address)


def listening_address(pid):
    """The one TCP address a process listens on: OpenBao's log repeats the port 0 it was given."""
    inodes = set()
    try:
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            found = re.match(r"socket:\[(\d+)\]", os.readlink(fd))
            if found:
                inodes.add(found.group(1))
        rows = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return None
    for row in rows:
        fields = row.split()
        if fields[3] == "0A" and fields[9] in inodes:
            return f"http://127.0.0.1:{int(fields[1].split(':')[1], 16)}"
    return None
