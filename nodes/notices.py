"""What the running node shows: notices, and which of several images it is at."""

import contextlib

import comfy.utils
from comfy.model_management import throw_exception_if_processing_interrupted


def notify(text: str) -> None:
    """Show a line of text on the node that is running; does nothing outside a running prompt."""
    # A notice never fails a graph, whatever this version of ComfyUI lacks.
    with contextlib.suppress(Exception):
        from comfy_execution.utils import get_executing_context
        from server import PromptServer

        context = get_executing_context()
        if context is not None:
            PromptServer.instance.send_progress_text(text, context.node_id)


class Progress:
    """The progress of a node that processes images in turn."""

    def __init__(self, count: int, noun: str) -> None:
        """Start at none of `count`; `noun` is what they are, such as "Photo"."""
        self._bar, self._count, self._noun, self._number = comfy.utils.ProgressBar(count), count, noun, 0

    def advance(self) -> None:
        """Begin the next one: move the bar, name the image if there are several, and stop if interrupted."""
        throw_exception_if_processing_interrupted()
        self._number += 1
        self._bar.update(1)
        if self._count > 1:
            notify(f"{self._noun} {self._number} of {self._count}")
