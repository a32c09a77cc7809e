"""Watches for the cloud's notice that this machine is to be taken away, and drains its Ray node.

    ray start --address=... && nohup python -m raydet3d.launch.spot &

Ray itself drains a node only when its autoscaler takes it. A drained node's training is told, saves a checkpoint and
goes on elsewhere, instead of losing what it did since the last one. The clouds give 30 s (Google, Azure) or 2 minutes
(Amazon). Runs beside a node of Ray, needs nothing but its Python, and ends once the node is drained.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

LOCAL = "http://169.254.169.254"  # the same on all three clouds; Google's has a name as well
TIMEOUT_S = 2.0
GRACE_S = {"aws": 120.0, "gcp": 30.0, "azure": 30.0}  # where a notice does not say when

log = logging.getLogger("raydet3d.spot")


@dataclass(frozen=True)
class Notice:
    """What a cloud has announced.

    Args:
        reason: What it says.
        seconds: How long the machine still runs.
    """

    reason: str
    seconds: float


class Metadata:
    """A machine's metadata service.

    Args:
        base: Its address.
    """

    def __init__(self, base: str = LOCAL) -> None:
        self.base = base.rstrip("/")

    def get(self, path: str, headers: Mapping[str, str], *, method: str = "GET") -> str | None:
        """Return what a path holds; None if there is nothing.

        Raises:
            OSError: The service does not answer.
        """
        request = urllib.request.Request(f"{self.base}/{path}", headers=dict(headers), method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (401, 404, 405):
                return None
            raise


def ask_aws(metadata: Metadata) -> Notice | None:
    """Amazon's interruption notice: two minutes ahead, for spot instances. (Source: EC2 user guide, IMDSv2.)"""
    token = metadata.get("latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "300"}, method="PUT")
    headers = {"X-aws-ec2-metadata-token": token or ""}
    text = metadata.get("latest/meta-data/spot/instance-action", headers)
    if text is None:
        return None
    found = json.loads(text)
    at = datetime.fromisoformat(found["time"].replace("Z", "+00:00"))
    return Notice(f"AWS will {found['action']} this spot instance", _until(at))


def ask_gcp(metadata: Metadata) -> Notice | None:
    """Google's notice: 30 s ahead, for spot and preemptible machines, and for maintenance that ends one."""
    headers = {"Metadata-Flavor": "Google"}
    if (metadata.get("computeMetadata/v1/instance/preempted", headers) or "").strip() == "TRUE":
        return Notice("GCP preempts this machine", GRACE_S["gcp"])
    event = (metadata.get("computeMetadata/v1/instance/maintenance-event", headers) or "").strip()
    if event == "TERMINATE_ON_HOST_MAINTENANCE":
        return Notice("GCP takes this machine's host down for maintenance", GRACE_S["gcp"])
    return None


def ask_azure(metadata: Metadata) -> Notice | None:
    """Azure's scheduled events that end this machine or restart it. (Source: Azure's Scheduled Events, 2020-07-01.)"""
    headers = {"Metadata": "true"}
    text = metadata.get("metadata/scheduledevents?api-version=2020-07-01", headers)
    events = json.loads(text or "{}").get("Events", [])
    ends = [e for e in events if e.get("EventType") in ("Preempt", "Terminate", "Reboot", "Redeploy")]
    if not ends:
        return None
    name = metadata.get("metadata/instance/compute/name?api-version=2021-02-01&format=text", headers)
    for event in ends:  # events of a whole scale set are told to each of its machines
        if name is None or name.strip() in event.get("Resources", [name.strip()]):
            at = event.get("NotBefore")
            seconds = _until(parsedate_to_datetime(at)) if at else GRACE_S["azure"]
            return Notice(f"Azure announces {event['EventType']}", seconds)
    return None


CLOUDS: dict[str, Callable[[Metadata], Notice | None]] = {"aws": ask_aws, "gcp": ask_gcp, "azure": ask_azure}
# What each cloud's service, and no other's, answers.
SIGNS: dict[str, tuple[str, dict[str, str], str]] = {
    "gcp": ("computeMetadata/v1/instance/id", {"Metadata-Flavor": "Google"}, "GET"),
    "azure": ("metadata/instance/compute/name?api-version=2021-02-01&format=text", {"Metadata": "true"}, "GET"),
    "aws": ("latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "300"}, "PUT"),
}


def find_cloud(metadata: Metadata) -> str | None:
    """The cloud that this machine is of; None where no metadata service answers."""
    for name, (path, headers, method) in SIGNS.items():
        try:
            if metadata.get(path, headers, method=method):
                return name
        except urllib.error.HTTPError:
            continue  # another cloud's service, which does not know the question
        except OSError:
            return None
    return None


def wait_for_notice(cloud: str, metadata: Metadata, *, every_s: float) -> Notice:
    """Ask again and again, until there is a notice. A service that fails in between is asked again."""
    failing = False
    while True:
        try:
            notice = CLOUDS[cloud](metadata)
            failing = False
        except (OSError, ValueError, KeyError) as error:
            if not failing:
                log.warning("the metadata service of %s fails (%s); asking on", cloud, error)
            notice, failing = None, True
        if notice is not None:
            return notice
        time.sleep(every_s)


class Node:
    """This machine's node of a Ray cluster.

    Args:
        address: Of the cluster's head; `auto` finds the one that was joined here.
        node_id: The node; found by this machine's address by default.
    """

    def __init__(self, address: str = "auto", node_id: str | None = None) -> None:
        import ray
        from ray._private import services
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        self.gcs: Any = GcsClient(address=services.canonicalize_bootstrap_address_or_die(address))
        self.node_id = node_id or self._find(ray.util.get_node_ip_address())

    def _find(self, ip: str) -> str:
        for node_id, info in self.gcs.get_all_node_info().items():
            if info.node_manager_address == ip and info.state == 0:  # alive
                return str(node_id.hex())
        raise RuntimeError(f"no node of the cluster has this machine's address {ip}; has `ray start` been run?")

    def drain(self, notice: Notice) -> None:
        """Tell the cluster that the node goes.

        Raises:
            RuntimeError: The cluster refuses.
        """
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + notice.seconds) * 1000)
        accepted, why = self.gcs.drain_node(self.node_id, reason, notice.reason, deadline_ms)
        if not accepted:
            raise RuntimeError(f"the cluster does not drain node {self.node_id}: {why}")


def _until(at: datetime) -> float:
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max((at - datetime.now(UTC)).total_seconds(), 1.0)


def main(argv: list[str] | None = None) -> int:
    """Watch for a notice, and drain.

    Returns:
        The exit code: 0 once the node is drained, and where there is no cloud to watch.
    """
    parser = argparse.ArgumentParser(prog="python -m raydet3d.launch.spot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cloud", choices=["auto", *CLOUDS], default="auto", help="whose notices (default: found out)")
    parser.add_argument("--address", default="auto", help="the Ray cluster's head (default: the one joined here)")
    parser.add_argument("--node-id", help="the node to drain (default: this machine's)")
    parser.add_argument("--every", type=float, default=2.0, metavar="S", help="seconds between two questions")
    parser.add_argument("--metadata", default=LOCAL, metavar="URL", help="the metadata service")
    parser.add_argument(
        "--now", type=float, metavar="S", help="do not watch: drain, and wait S seconds for the work to go"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level="INFO", stream=sys.stdout, format="%(asctime)s %(name)s: %(message)s")

    if args.now is not None:
        Node(args.address, args.node_id).drain(Notice("this machine is shut down", args.now))
        time.sleep(args.now)
        return 0
    metadata = Metadata(args.metadata)
    cloud = find_cloud(metadata) if args.cloud == "auto" else args.cloud
    if cloud is None:
        log.info("no metadata service of AWS, GCP or Azure answers: nothing to watch on this machine")
        return 0
    node = Node(args.address, args.node_id)  # now, not when seconds count
    log.info("watching for notices of %s; node %s", cloud, node.node_id)
    notice = wait_for_notice(cloud, metadata, every_s=args.every)
    node.drain(notice)
    log.info("%s in %.0f s: node %s is being drained", notice.reason, notice.seconds, node.node_id)
    return 0


if __name__ == "__main__":
    sys.exit(main())
