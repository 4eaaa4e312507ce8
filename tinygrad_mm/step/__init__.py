"""`compile_step`: the whole training step, forward, backward and update, as one emitted function."""

from tinygrad_mm.step.training_step import Step, compile_step

__all__ = ["Step", "compile_step"]
