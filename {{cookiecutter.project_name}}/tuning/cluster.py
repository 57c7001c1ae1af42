"""Start Ray on this machine, or connect to a cluster."""

import logging
import os

import ray

from utils.errors import UserError


def start_ray(address: str | None, *, show_output: bool = False) -> None:
    """Connect to a cluster, or start Ray here for as long as this process lives.

    Args:
        address: of the cluster; None starts Ray here, and leaves one that may run here already alone.
        show_output: whether to print what the processes print.

    Raises:
        UserError: there is no cluster at the address.
    """
    # Ray reports how it is used to its makers unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here = {} if address else {"include_dashboard": False, "object_store_memory": 10**8}
    try:
        ray.init(address or "local", log_to_driver=show_output, logging_level=logging.CRITICAL, **here)
    except (ConnectionError, ValueError) as error:
        raise UserError(f"--address {address}: {error}") from None
