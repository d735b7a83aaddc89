"""Notices on the node that is running, where ComfyUI can show them."""

import contextlib


def notify(text: str) -> None:
    """Show a line of text on the node that is running; does nothing outside a running prompt."""
    # A notice never fails a graph, whatever this version of ComfyUI lacks.
    with contextlib.suppress(Exception):
        from comfy_execution.utils import get_executing_context
        from server import PromptServer

        context = get_executing_context()
        if context is not None:
            PromptServer.instance.send_progress_text(text, context.node_id)
