"""Regenerate the protobuf modules beside the schemas: `python -m protocol.schema.generate [DIR]`.

With DIR the modules are written there instead, so that a test can compare them with those
checked in.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def generate(out: Path) -> None:
    """Write `protocol/schema/*_pb2.py[i]` below `out`. Needs grpcio-tools (extra `dev`)."""
    from grpc_tools import protoc

    schemas = sorted(str(p.relative_to(ROOT)) for p in HERE.glob("*.proto"))
    arguments = ["protoc", f"--proto_path={ROOT}", f"--python_out={out}", f"--pyi_out={out}"]
    if protoc.main([*arguments, *schemas]) != 0:
        raise SystemExit("protoc refused the schemas: see its message above")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
