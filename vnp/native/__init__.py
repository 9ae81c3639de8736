"""The model that comes with the package: what ``finetune`` wrote, and how records are scored with it.

``docs/native-model.md`` is its card.
"""
