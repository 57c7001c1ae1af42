"""Let a trained language model write.

python generate.py -r saved/prose/<run>                                a text, to its end
python generate.py -r saved/prose/<run> --prompt "The " --length 300   300 bytes that go on from a beginning
python generate.py -r saved/prose/<run> --temperature 0.5 --top-k 20   safer and duller
"""

import argparse
import sys
from pathlib import Path

from torch import nn

from data_loaders.byte_tokens import END, decode, encode
from trainer.restoring import load_weights
from trainer.run_folder import find_best
from utils.config import Component
from utils.errors import UserError, run
from utils.generation import generate
from utils.registry import build

LONGEST = 2000


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-r", "--resume", required=True, type=Path, metavar="RUN", help="a run's folder or a file")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="how the text begins")
    parser.add_argument(
        "--length",
        type=int,
        metavar="BYTES",
        help="write so many bytes, and begin another text where one ends "
        f"(by default one text is written to its end, {LONGEST} bytes at most)",
    )
    parser.add_argument("--temperature", type=float, default=0.8, help="below 1 likely bytes become likelier (0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="choose among the K likeliest bytes alone")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes another text (0)")
    arguments = parser.parse_args()
    numbers = (arguments.temperature, arguments.top_k, arguments.length)
    if any(number is not None and number <= 0 for number in numbers):
        parser.error("--temperature, --top-k and --length have to be above 0")
    return arguments


def load_model(path: Path) -> nn.Module:
    """Build the model of a run's best checkpoint, or of the newest, or of a file, with its weights."""
    _, state = find_best(path)
    model: nn.Module = build("model", Component.model_validate(state["config"]["model"]))
    if not isinstance(getattr(model, "max_length", None), int):
        raise UserError(f"{path}: {type(model).__name__} has no `max_length`, and is no model that could write")
    load_weights(model, state["model"])
    return model.eval()


def main() -> int:
    """Print what the model writes."""
    arguments = parse_arguments()
    model = load_model(arguments.resume)
    prompt = encode(arguments.prompt.encode("utf-8", errors="surrogateescape")).tolist()[:-1]
    options = {"temperature": arguments.temperature, "top_k": arguments.top_k, "seed": arguments.seed}
    written = generate(model, prompt, arguments.length or LONGEST, stop=None if arguments.length else END, **options)
    print(decode(prompt[1:] + written).rstrip("\n"))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
