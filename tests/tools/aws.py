"""The tests' own AWS client: boto3 with the credentials in the environment. Prints a JSON object.

    aws.py prepare DIR      a bucket, the role `artifacts`, and principals of broker and revoker in DIR
    aws.py get BUCKET KEY   {"body": …} or {"error": code}
    aws.py put BUCKET KEY   the same
    aws.py denied           {"ids": […]}: the sessions in the role's deny list
"""

import json
import os
import sys

import boto3
import botocore.config
import botocore.exceptions

REGION, ACCOUNT, ROLE, BUCKETS = "eu-central-1", "123456789012", "artifacts", ("artifacts", "other")
CONFIG = botocore.config.Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})


def client(service):
    return boto3.client(
        service, endpoint_url=os.environ["ENDPOINT"], region_name=REGION, config=CONFIG,
        aws_session_token=os.environ.get("AWS_SESSION_TOKEN") or None,
        aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"], aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    )


def document(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def prepare(directory):
    s3, iam = client("s3"), client("iam")
    for bucket in BUCKETS:
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_object(Bucket=bucket, Key="greeting", Body=b"hello from s3")
    arn = f"arn:aws:iam::{ACCOUNT}:role/{ROLE}"
    assume = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
    trust = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": assume}
    iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=document(trust))
    everything = document({"Effect": "Allow", "Action": "s3:*", "Resource": "*"})
    iam.put_role_policy(RoleName=ROLE, PolicyName="s3", PolicyDocument=everything)
    for user, actions in (("broker", assume), ("revoker", ["iam:GetRolePolicy", "iam:PutRolePolicy"])):
        iam.create_user(UserName=user)
        allowed = document({"Effect": "Allow", "Action": actions, "Resource": arn})
        iam.put_user_policy(UserName=user, PolicyName="taskpass", PolicyDocument=allowed)
        key = iam.create_access_key(UserName=user)["AccessKey"]
        path = os.path.join(directory, f"aws-{user}")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"[default]\naws_access_key_id = {key['AccessKeyId']}\n")
            file.write(f"aws_secret_access_key = {key['SecretAccessKey']}\n")
    return {"ok": True}


def get(bucket, key):
    return {"body": client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode()}


def put(bucket, key):
    client("s3").put_object(Bucket=bucket, Key=key, Body=b"written")
    return {"body": "written"}


def denied():
    try:
        policy = client("iam").get_role_policy(RoleName=ROLE, PolicyName="taskpass-deny")["PolicyDocument"]
    except client("iam").exceptions.NoSuchEntityException:
        return {"ids": []}
    ids = set()
    for statement in policy["Statement"]:
        for condition in statement.get("Condition", {}).get("StringEquals", {}).values():
            ids.update(condition if isinstance(condition, list) else [condition])
    return {"ids": sorted(ids)}


if __name__ == "__main__":
    try:
        print(json.dumps({"prepare": prepare, "get": get, "put": put, "denied": denied}[sys.argv[1]](*sys.argv[2:])))
    except botocore.exceptions.ClientError as error:
        print(json.dumps({"error": error.response["Error"]["Code"]}))
