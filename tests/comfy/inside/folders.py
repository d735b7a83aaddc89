"""Loads the pack with folders of extra_model_paths.yaml, and prints what the nodes list and where they write.

Takes the folders for face2diffusion and face2diffusion_identities, each or None.
"""

import json
import sys

import boot
import folder_paths
import torch

weights, identities, models = boot.ARGUMENT
folder_paths.models_dir = models
for key, folder in (("face2diffusion", weights), ("face2diffusion_identities", identities)):
    if folder:
        folder_paths.add_model_folder_path(key, folder)
boot.load_pack()
load, encoder = boot.node("F2DLoadIdentity"), boot.node("LoadFaceEncoder")
files = sys.modules[load.__module__]
print(
    json.dumps(
        {
            "identities": load.INPUT_TYPES()["required"]["identity_file"][1]["options"],
            "weights": encoder.INPUT_TYPES()["required"]["msid"][1]["options"],
            "writes": files.new_path(files.IDENTITIES, "friends/alice", {"v_id": torch.zeros(1)}, False),
        }
    )
)
