"""Google Cloud's credentials, where a runtime has a way of its own to them.

Elsewhere the client library finds them by itself (application default credentials).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, MutableMapping
from pathlib import Path

from relaydet.errors import RelayError
from relaydet.runtime.detect import Runtime

KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"


def log_in(
    runtime: Runtime,
    say: Callable[[str], None] = print,
    environment: MutableMapping[str, str] = os.environ,
) -> str:
    """Make Google Cloud's credentials known to the client library.

    Args:
        runtime: where this is. Colab asks the user, where somebody can be asked; Kaggle keeps them
            as a secret of the notebook; elsewhere nothing is done.
        say: takes what is about to be asked.
        environment: GOOGLE_APPLICATION_CREDENTIALS is set in it where a runtime hands out a file.

    Returns:
        Where they come from, for the user; empty where that is not known here.

    Raises:
        RelayError: the user was asked and did not agree.
    """
    if environment.get(KEY_FILE):
        return f"the key file in {KEY_FILE}"
    if runtime.name == "kaggle":
        return _from_kaggle(environment)
    if runtime.name == "colab" and runtime.front_end:
        return _ask_on_colab(say)
    return ""


def kaggle_secret(label: str, environment: MutableMapping[str, str] = os.environ) -> str:
    """A secret of a Kaggle notebook (Add-ons > Secrets); empty where it has none of that label.

    Raises:
        RelayError: Kaggle's service does not answer; mostly, internet is off.
    """
    if not environment.get("KAGGLE_USER_SECRETS_TOKEN"):
        return ""  # nobody has attached one: the client would refuse to start
    import kaggle_secrets

    try:
        return str(kaggle_secrets.UserSecretsClient().get_secret(label))
    except ConnectionError as error:
        raise RelayError(
            f"Kaggle's secrets cannot be read ({error}); turn Internet on under Settings."
        ) from error
    except Exception as error:  # its kinds of errors have changed names; BackendError is "none"
        if type(error).__module__.partition(".")[0].startswith("kaggle"):
            return ""
        raise


def _from_kaggle(environment: MutableMapping[str, str]) -> str:
    """Kaggle patches the client library for an attached account; a gcloud login is a secret."""
    if "GCS" in environment.get("KAGGLE_KERNEL_INTEGRATIONS", "").upper().split(":"):
        return "the account attached under Add-ons > Google Cloud Services"
    key = kaggle_secret("__gcloud_sdk_auth__", environment)
    if not key:
        return ""
    # Not in /kaggle/working: that becomes the version's output, which may be public.
    number, name = tempfile.mkstemp(prefix="gcloud-", suffix=".json")
    os.close(number)
    Path(name).write_text(key)
    environment[KEY_FILE] = name
    return "the Google Cloud SDK secret of this notebook"


def _ask_on_colab(say: Callable[[str], None]) -> str:
    from google.colab import auth

    say("Colab may ask for your Google account now: it is to read and write the bucket")
    try:
        auth.authenticate_user()
    except Exception as error:  # it raises its own and OSErrors, and says little
        raise RelayError(
            f"Colab did not let this notebook use your Google account ({error or 'no answer'});"
            " run the cell again and agree, or set STORE to a folder on Drive."
        ) from error
    return "your account, as you gave it to Colab"
