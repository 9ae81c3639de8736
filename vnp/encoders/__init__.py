"""Encoders turn sequences into rows of numbers.

    encoder = load("fastesm2_650", weights=DIR, device="cuda", precision="fp16")
    encoder.embed(["MKTAYIAK", "MSDNE"])        # float32 (2, 1280), input order

Importing this room loads neither numpy nor a tensor library: commands that only ask for facts answer at once.
"""

from typing import TYPE_CHECKING, Any

from vnp.encoders.spec import EncoderSpec, names

if TYPE_CHECKING:
    from vnp.encoders.registry import Encoder, describe, from_folder, identity, load

__all__ = ["Encoder", "EncoderSpec", "describe", "from_folder", "identity", "load", "names"]


def __getattr__(name: str) -> Any:
    """Import what needs numpy when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vnp.encoders import registry

    return getattr(registry, name)
