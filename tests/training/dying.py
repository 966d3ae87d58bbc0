"""A model that ends its process, for tests of what becomes of its cell and of the others."""

import os


def die(*_: object) -> None:
    os._exit(7)


def Dying(norm: object, **arguments: object) -> object:  # named as the model class it stands for
    """A plain CNN whose first training step ends the process, as a crash in native code would."""
    from normzoo.models.plain_cnn import PlainCNN

    model = PlainCNN(norm, **arguments)  # type: ignore[arg-type]
    if next(model.parameters()).device.type != "meta":
        model.register_forward_hook(die)
    return model
