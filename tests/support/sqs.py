"""A local SQS (moto's server) in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["AWS", "SqsServer", "sqs_server"]

AWS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local-secret", "AWS_DEFAULT_REGION": "eu-central-1"}
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class SqsServer:
    """The server, and a client of it."""

    def __init__(self, port: int) -> None:
        import boto3

        self.url = f"http://127.0.0.1:{port}"
        session = boto3.session.Session(
            aws_access_key_id="local", aws_secret_access_key="local-secret", region_name="eu-central-1"
        )
        self.client: Any = session.client("sqs", endpoint_url=self.url)

    def queue(self, name: str, **attributes: str) -> str:
        """Create a queue, and return its URL."""
        made = self.client.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "1", **attributes})
        return f"{self.url}/{made['QueueUrl'].split('/', 3)[3]}"

    def arn(self, queue: str) -> str:
        """Return the ARN of a queue."""
        asked = self.client.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
        return str(asked["Attributes"]["QueueArn"])

    def send(self, queue: str, *bodies: str) -> None:
        """Put messages into a queue."""
        for first in range(0, len(bodies), 10):
            batch = bodies[first : first + 10]
            entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(batch)]
            self.client.send_message_batch(QueueUrl=queue, Entries=entries)

    def count(self, queue: str) -> int:
        """Return the number of messages in a queue, those that are being processed among them."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        asked = self.client.get_queue_attributes(QueueUrl=queue, AttributeNames=names)
        return sum(int(asked["Attributes"][name]) for name in names)


@contextmanager
def sqs_server() -> Iterator[SqsServer]:
    """Run the server."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        try:
            yield SqsServer(int(process.stdout.readline()))
        finally:
            process.kill()
            process.wait()
