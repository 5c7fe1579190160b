"""The main job, end to end, on this machine. An agent attests, opens a task, gets an OpenBao and an
AWS credential, uses both and ends the task, which revokes both. An auditor then verifies the
history offline. Every server is stopped at the end.

Run it with `make quickstart`, which first builds the two programs and installs OpenBao and
ministack.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import boto3
import botocore.config
import botocore.exceptions

import backends

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = ROOT / "target" / "debug"
ACCOUNT, REGION, BUCKET = "123456789012", "eu-central-1", "artifacts"
ROOT_TOKEN = "quickstart-root"

PROVIDERS = """
[[provider]]
name = "vault-main"
kind = "vault"
address = "{bao}"
allow_plaintext = true
token_file = "secrets/vault-token"
token_role = "taskpass"

  [[provider.role]]
  name = "ci-config"
  type = "token"
  policies = ["ci-config"]
  max_ttl = "15m"
  impact = 0

  [[provider.role]]
  name = "ci-cert"
  type = "dynamic"
  path = "pki/issue/ci"
  method = "write"
  ttl_field = "ttl"
  body = {{ common_name = "ci.acme.test" }}
  policies = ["ci-cert"]
  max_ttl = "15m"
  impact = 1

[[provider]]
name = "aws-prod"
kind = "aws"
region = "{region}"
endpoint_url = "{aws}"
credentials = {{ source = "file", path = "secrets/aws-broker" }}
revoker = {{ credentials = {{ source = "file", path = "secrets/aws-revoker" }} }}

  [[provider.role]]
  name = "artifact-reader"
  role_arn = "arn:aws:iam::{account}:role/artifact-reader"
  session_policy = "policies/artifact-reader.json"
  params = {{ bucket = {{ pattern = "[a-z0-9.-]{{3,63}}" }} }}
  max_ttl = "15m"
  impact = 0
  probe = {{ action = "s3:ListBucket", bucket = "{bucket}" }}
"""

# A new installation grants no role to any agent.
GRANTS = """
@id("grant.builder")
permit (
  principal == Taskpass::Agent::"builder",
  action in Taskpass::Action::"access",
  resource
);
"""

SESSION_POLICY = {
    "Version": "2012-10-17",
    "Statement": [{
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": ["arn:aws:s3:::${bucket}", "arn:aws:s3:::${bucket}/*"],
    }],
}


class Story:
    """Prints one line for each step, with the time it took."""

    def __init__(self):
        self.began = time.monotonic()
        self.number = 0

    def step(self, text, started, *details):
        self.number += 1
        print(f"{self.number:2}. {text:<74}{(time.monotonic() - started) * 1000:7.0f} ms")
        for detail in details:
            print(f"      {detail}")
        sys.stdout.flush()

    def end(self):
        print(f"\nDone in {time.monotonic() - self.began:.1f} s. Nothing is left running.")


def main():
    story, running = Story(), []
    with tempfile.TemporaryDirectory(prefix="taskpass-quickstart-") as name:
        directory = pathlib.Path(name)
        try:
            tell(story, directory, running)
        finally:
            for server in reversed(running):
                server.stop()
    story.end()


def tell(story, directory, running):
    print("Taskpass quickstart: credentials that live exactly as long as the task.\n")
    began = time.monotonic()
    bao_server, bao = backends.start_openbao(directory, ROOT_TOKEN)
    running.append(bao_server)
    aws_server, aws = backends.start_ministack(directory, ACCOUNT, REGION)
    running.append(aws_server)
    story.step("OpenBao and an AWS emulator that enforces IAM are up", began, bao, aws)

    began = time.monotonic()
    home = directory / "broker"
    run(BIN / "taskpassd", "init", "--dir", home, "--trust-domain", "acme.test")
    (home / "secrets").mkdir(mode=0o700)
    (home / "policies").mkdir()
    (home / "policies" / "artifact-reader.json").write_text(json.dumps(SESSION_POLICY, indent=2))
    write_secret(home / "secrets" / "vault-token", prepare_openbao(bao))
    prepare_aws(aws, home / "secrets")
    (home / "policy" / "grants.cedar").write_text(GRANTS)
    config = home / "taskpass.toml"
    text = re.sub(r"(?m)^#?\s*grpc\s*=.*$", 'grpc = "127.0.0.1:0"', config.read_text(), count=1)
    config.write_text(text + PROVIDERS.format(bao=bao, aws=aws, account=ACCOUNT, region=REGION, bucket=BUCKET))
    broker = Broker(config, directory)
    running.append(broker)
    story.step("a broker is initialised and serves", began, broker.ready)

    operator = Cli(broker.address, home / "operator")
    agent = Cli(broker.address, directory / "agent")
    began = time.monotonic()
    operator("agent", "register", "builder", "--owner", "alice@acme.test")
    token = operator("agent", "token", "builder")["join_token"]
    agent("login", "--join-token", "-", stdin=token)
    who = agent("svid", "show")["spiffe_id"]
    story.step("an operator registers an agent, and the agent logs in with a one-time token", began, who)

    began = time.monotonic()
    task = agent(
        "task", "start", "--purpose", "build release 1.4", "--ttl", "10m",
        "--role", "vault-main/ci-config", "--role", "vault-main/ci-cert", "--role", "aws-prod/artifact-reader",
    )["task_id"]
    story.step("the agent opens a task", began, f"task {task}: build release 1.4")

    began = time.monotonic()
    vault = issue(agent, task, "vault-main/ci-config")
    story.step("an OpenBao token is issued for this task", began, lifetime(vault))
    began = time.monotonic()
    certificate = issue(agent, task, "vault-main/ci-cert")
    story.step("a certificate from OpenBao's PKI engine, as a lease of this task", began, lifetime(certificate))
    began = time.monotonic()
    session = issue(agent, task, "aws-prod/artifact-reader", "--scope", f"bucket={BUCKET}")
    story.step("and an AWS session that can read one bucket, and nothing else", began, lifetime(session))

    began = time.monotonic()
    answers = (read_vault(bao, vault["data"]["token"]), read_bucket(aws, session["data"]), write_bucket(aws, session["data"]))
    story.step("it uses token and session", began, *answers)
    expect(answers[0], "42", "the OpenBao token should work")
    expect(answers[1], "hello from s3", "the AWS session should read")
    expect(answers[2], "AccessDenied", "the AWS session should not write")

    began = time.monotonic()
    ended = agent("task", "end", task)
    receipts = [f"{r['role']:<26}{r['state']:<20}after {r['took_ms']} ms" for r in ended["receipts"]]
    story.step("the task ends, and all its credentials are revoked", began, *receipts)
    for receipt in ended["receipts"]:
        expect(receipt["state"], "revoked_verified", f"the receipt of {receipt['role']}")

    began = time.monotonic()
    refused = (read_vault(bao, vault["data"]["token"]), read_bucket(aws, session["data"]))
    story.step("the same calls again", began, *refused)
    expect(refused[0], "403", "the OpenBao token should be dead")
    expect(refused[1], "AccessDenied", "the AWS session should be dead")

    began = time.monotonic()
    export = directory / "ledger.jsonl"
    operator("ledger", "export", "--to", export, as_json=False)
    broker.stop()
    verified = run(
        BIN / "taskpass", "ledger", "verify", "--key", home / "operator" / "ledger.vkey", export,
    ).strip()
    story.step("an auditor verifies the exported history offline, the broker is off", began, *verified.splitlines())


class Broker:
    """`taskpassd run`, ready to serve."""

    def __init__(self, config, directory):
        self.log = open(directory / "broker.log", "w")
        self.process = subprocess.Popen(
            [BIN / "taskpassd", "run", "--config", config],
            stdout=subprocess.PIPE, stderr=self.log, text=True, env=clean_environment(),
        )
        self.ready = self.process.stdout.readline().strip()
        found = re.search(r"addr=(\S+)", self.ready)
        if not found:
            raise SystemExit(f"the broker did not start:\n{(directory / 'broker.log').read_text()[-2000:]}")
        self.address = found.group(1)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(15)
        self.log.close()


class Cli:
    """`taskpass` with one identity; answers are read as JSON."""

    def __init__(self, address, identity):
        self.environment = {**clean_environment(), "TASKPASS_ADDR": address, "TASKPASS_IDENTITY": str(identity)}

    def __call__(self, *arguments, stdin=None, as_json=True):
        output = ["-o", "json"] if as_json else []
        text = run(BIN / "taskpass", *output, *arguments, env=self.environment, stdin=stdin)
        return json.loads(text) if as_json else text


def issue(agent, task, role, *more):
    return agent("credential", "issue", "--task", task, "--role", role, *more)


def lifetime(credential):
    return f"{credential['credential_id']}, {credential['revocation_class']}, until {credential['expires_at']}"


def prepare_openbao(address):
    """A secret, a PKI that gives leases, the policies of the two roles, and the broker's token and token role."""
    call = lambda method, path, body=None: openbao(address, ROOT_TOKEN, method, path, body)
    call("POST", "secret/data/ci", {"data": {"answer": "42"}})
    call("POST", "sys/mounts/pki", {"type": "pki"})
    call("POST", "pki/root/generate/internal", {"common_name": "acme.test", "ttl": "24h"})
    call("POST", "pki/roles/ci", {"allow_any_name": True, "generate_lease": True, "max_ttl": "1h"})
    policy = (ROOT / "deploy" / "examples" / "vault-broker-policy.hcl").read_text()
    call("PUT", "sys/policies/acl/broker-of-taskpass", {"policy": policy})
    call("POST", "auth/token/roles/taskpass", {
        "allowed_policies_glob": "ci-*", "orphan": True, "token_type": "service",
        "token_no_default_policy": True, "token_explicit_max_ttl": "8h",
    })
    call("PUT", "sys/policies/acl/ci-config", {"policy": 'path "secret/data/ci" { capabilities = ["read"] }'})
    call("PUT", "sys/policies/acl/ci-cert", {"policy": 'path "pki/issue/ci" { capabilities = ["update"] }'})
    own = call("POST", "auth/token/create", {"policies": ["broker-of-taskpass"], "period": "1h"})
    return own["auth"]["client_token"]


def openbao(address, token, method, path, body=None):
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"{address}/v1/{path}", data, {"X-Vault-Token": token}, method=method)
    with urllib.request.urlopen(request, timeout=5) as answer:
        text = answer.read()
    return json.loads(text) if text else {}


def read_vault(address, token):
    try:
        answer = openbao(address, token, "GET", "secret/data/ci")
        return f"OpenBao secret/ci: {answer['data']['data']}"
    except urllib.error.HTTPError as error:
        return f"OpenBao secret/ci: refused with {error.code}"


def prepare_aws(endpoint, secrets):
    """A bucket, a role with all rights in S3, and two principals: the broker and its revoker."""
    root = client("s3", endpoint, "AKIAROOTROOTROOTROOT", "root-secret")
    root.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    root.put_object(Bucket=BUCKET, Key="greeting", Body=b"hello from s3")
    iam = client("iam", endpoint, "AKIAROOTROOTROOTROOT", "root-secret")
    role = f"arn:aws:iam::{ACCOUNT}:role/artifact-reader"
    trust = {"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
        "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
    }]}
    iam.create_role(RoleName="artifact-reader", AssumeRolePolicyDocument=json.dumps(trust))
    allow_s3 = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_role_policy(RoleName="artifact-reader", PolicyName="s3", PolicyDocument=json.dumps(allow_s3))
    for user, actions in (
        ("broker", ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]),
        ("revoker", ["iam:GetRolePolicy", "iam:PutRolePolicy"]),
    ):
        iam.create_user(UserName=user)
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": role}]}
        iam.put_user_policy(UserName=user, PolicyName="taskpass", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=user)["AccessKey"]
        write_secret(secrets / f"aws-{user}", (
            f"[default]\naws_access_key_id = {key['AccessKeyId']}\n"
            f"aws_secret_access_key = {key['SecretAccessKey']}\n"
        ))


def client(service, endpoint, key, secret, token=None):
    config = botocore.config.Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    return boto3.client(
        service, endpoint_url=endpoint, region_name=REGION, aws_access_key_id=key,
        aws_secret_access_key=secret, aws_session_token=token, config=config,
    )


def session_client(endpoint, data):
    return client("s3", endpoint, data["access_key_id"], data["secret_access_key"], data["session_token"])


def read_bucket(endpoint, data):
    try:
        answer = session_client(endpoint, data).get_object(Bucket=BUCKET, Key="greeting")
        return f"AWS s3://{BUCKET}/greeting: {answer['Body'].read().decode()}"
    except botocore.exceptions.ClientError as error:
        return f"AWS s3://{BUCKET}/greeting: refused with {error.response['Error']['Code']}"


def write_bucket(endpoint, data):
    try:
        session_client(endpoint, data).put_object(Bucket=BUCKET, Key="greeting", Body=b"defaced")
        return f"AWS write to s3://{BUCKET}: allowed"
    except botocore.exceptions.ClientError as error:
        return f"AWS write to s3://{BUCKET}: refused with {error.response['Error']['Code']} (outside its scope)"


def expect(text, part, what):
    if part not in text:
        raise SystemExit(f"{what}, but the answer was: {text}")


def write_secret(path, text):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def clean_environment():
    """The variables that the programs need, without the person's own cloud or Vault settings."""
    return {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}


def run(*command, env=None, stdin=None):
    done = subprocess.run(
        [str(part) for part in command], env=env or clean_environment(), input=stdin, text=True, capture_output=True,
    )
    if done.returncode != 0:
        words = " ".join(str(part) for part in command[:4])
        raise SystemExit(f"`{words} …` ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
