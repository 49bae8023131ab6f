"""One of several processes that joins the others and does what a test asks: python group_member.py ...

group_member.py INDEX SIZE PORT JOIN_SECONDS WHAT
"""

import time

from samosa_jax import command_line
from samosa_jax.config import DistributedConfig
from samosa_jax.errors import UserError
from samosa_jax.parallel.distributed import joined


def main(arguments: list[str]) -> None:
    index, size, port, seconds = (int(argument) for argument in arguments[:4])
    config = DistributedConfig(
        coordinator=f"127.0.0.1:{port}",
        num_processes=size,
        process_id=index,
        join_timeout_seconds=seconds,
        heartbeat_timeout_seconds=3,
    )
    with joined(config) as group:
        print("joined", flush=True)
        if arguments[4] == "share":
            print("shared", group.share({"from": group.index}))
        elif arguments[4] == "fail" and index == 1:
            raise UserError("rows.jsonl, row 7: no text; remove that row")
        elif arguments[4] == "bug" and index == 1:
            raise ValueError("a mistake of ours")
        else:
            time.sleep(1000)  # as if in a collective that waits for another process
    print("left")


if __name__ == "__main__":
    command_line.run(main)
