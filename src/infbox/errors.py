"""Every fault that infbox reports to a person.

The tree::

    InfboxError            what was wrong, with the variable and its value; `hint`: what to do about it
    ├── PresetError        a preset or one of its values cannot be used
    ├── StackError         a Pulumi stack's configuration cannot be used
    ├── ModelError         a model cannot be fetched, or what was fetched is not a model
    ├── ImageError         the engine's container image cannot be had, or nothing can be run in it
    ├── KeyStoreError      the store of API keys cannot be read or changed
    ├── DriverError        a GPU's driver cannot be used, or must not be installed
    ├── StorageError       a disk cannot be used, or must not be formatted
    ├── WorkspaceError     a folder cannot be taken for a workspace, or what is in it cannot be asked for
    └── NotReadyError      a service did not answer as a working one does

Programs raise these; `infbox.cli` prints them as one sentence, a blank line and `hint: …`, and exits 1.
"""


class InfboxError(Exception):
    """A fault with a way out.

    Args:
        message: one sentence that names what was wrong, with its value.
        hint: what to do, with the command to type where there is one.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class PresetError(InfboxError):
    """A preset or one of its values cannot be used."""


class StackError(InfboxError):
    """A Pulumi stack's configuration cannot be used."""


class ModelError(InfboxError):
    """A model cannot be fetched, or what was fetched is not a model."""


class ImageError(InfboxError):
    """The engine's container image cannot be had, or nothing can be run in it."""


class KeyStoreError(InfboxError):
    """The store of API keys cannot be read or changed."""


class DriverError(InfboxError):
    """A GPU's driver cannot be used, or must not be installed."""


class StorageError(InfboxError):
    """A disk cannot be used, or must not be formatted."""


class WorkspaceError(InfboxError):
    """A folder cannot be taken for a workspace, or what is in it cannot be asked for."""


class NotReadyError(InfboxError):
    """A service did not answer as a working one does."""
