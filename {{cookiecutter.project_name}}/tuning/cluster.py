"""Start Ray on this machine, or connect to a cluster."""

import logging
import os
import socket

import ray

from utils.errors import UserError


def find_cluster(address: str) -> None:
    """See that somebody listens at an address; Ray would try for ten minutes.

    Raises:
        UserError: nobody does.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"--address {address}: there is no Ray cluster ({error}); should be host:port or `auto`"
        ) from None


def start_ray(address: str | None) -> None:
    """Connect to a cluster, or start Ray here for as long as this process lives.

    Args:
        address: of the cluster; None starts Ray here, and leaves one that may run here already alone.

    Raises:
        UserError: there is no cluster at the address.
    """
    # Ray reports how it is used to its makers unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address and address != "auto":
        find_cluster(address)
    here = {} if address else {"include_dashboard": False, "object_store_memory": 10**8}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **here)
    except (ConnectionError, ValueError) as error:
        text = "if the cluster asks for a token, set RAY_AUTH_MODE=token"
        raise UserError(f"--address {address}: {error}\n{text}") from None


def has_gpus() -> bool:
    """Whether there is a GPU on any of the machines."""
    return bool(ray.cluster_resources().get("GPU", 0) >= 1)


def check_room(what: str, cpus: int, gpus: float, count: int = 1) -> None:
    """See that processes can find their place, for Ray would wait for it, and say nothing.

    Args:
        what: the processes, for the message.
        cpus: CPU cores for each.
        gpus: GPUs for each.
        count: how many there must be at the same time.

    Raises:
        UserError: they do not fit on the machines that there are.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = 0
    for machine in machines:
        by_gpus = machine.get("GPU", 0) // gpus if gpus else count
        places += int(min(machine.get("CPU", 0) // cpus, by_gpus))
    if places < count:
        there = ", ".join(f"{machine.get('CPU', 0):g} and {machine.get('GPU', 0):g}" for machine in machines)
        raise UserError(f"no room for {what}: each takes {cpus} CPU and {gpus:g} GPU, and the machines have {there}")
