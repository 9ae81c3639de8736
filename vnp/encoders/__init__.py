"""Encoders turn sequences into rows of numbers.

    encoder = load("fastesm2_650", weights=DIR, device="cuda", precision="fp16")
    encoder.embed(["MKTAYIAK", "MSDNE"])        # float32 (2, 1280), input order

Importing this room loads no tensor library; ``load`` and ``from_folder`` do, when the encoder needs one.
"""

from vnp.encoders.registry import Encoder, describe, from_folder, identity, load
from vnp.encoders.spec import EncoderSpec, names

__all__ = ["Encoder", "EncoderSpec", "describe", "from_folder", "identity", "load", "names"]
