"""Google Cloud's credentials, where a runtime has a way of its own to them.

Elsewhere the client library finds them by itself (application default credentials).
"""

from __future__ import annotations

import http.client
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path

from relaydet.errors import RelayError
from relaydet.runtime.detect import Runtime

KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
SECRET_SECONDS = 60.0
"""How long Kaggle's secrets service is tried again."""
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 15.0
UNRESOLVED_TRIES = 2
"""How often a name that cannot be resolved is tried again: with internet off it never can."""
LONGEST_WORDS = 200
"""Characters of an error in a message; an answer may be a whole page."""
_PASSING = (OSError, http.client.HTTPException, ValueError)
"""ConnectionError and TimeoutError, a body that is cut off, and one that is no JSON."""
_REFUSED = (401, 403, 404)
_REFUSED_REMEDY = (
    "attach it to this notebook under Add-ons > Secrets, in a session of your own account, or set"
    " STORE"
)
_PASSING_REMEDY = (
    "run again in a few minutes, or set STORE to what the secret says: it is not begun anew"
    " elsewhere meanwhile"
)


class NoInternetError(RelayError):
    """The name of a service cannot be resolved: internet is off."""


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
        RelayError: the user was asked and did not agree, or Kaggle does not give them out.
    """
    if environment.get(KEY_FILE):
        return f"the key file in {KEY_FILE}"
    if runtime.name == "kaggle":
        return _from_kaggle(environment, say)
    if runtime.name == "colab" and runtime.front_end:
        return _ask_on_colab(say)
    return ""


def kaggle_secret(
    label: str,
    environment: MutableMapping[str, str] = os.environ,
    say: Callable[[str], None] = print,
) -> str:
    """Return a secret of a Kaggle notebook (Add-ons > Secrets); empty where it has none like that.

    What may pass (the service is overloaded, silent or answers something else) is tried again for
    about a minute.

    Args:
        label: of the secret.
        environment: the environment variables.
        say: takes what is waited for.

    Raises:
        NoInternetError: the service's name cannot be resolved: internet is off.
        RelayError: the service does not give the secret out, or does not answer.
    """
    if not environment.get("KAGGLE_USER_SECRETS_TOKEN"):
        return ""  # nobody has attached one: the client would refuse to start
    until, wait, unresolved = time.monotonic() + SECRET_SECONDS, FIRST_WAIT_SECONDS, 0
    while True:
        secret, error = _ask_kaggle(label)
        if error is None:
            return secret
        unresolved += _is_unresolved(error)
        if unresolved > UNRESOLVED_TRIES:
            raise NoInternetError(
                f"Kaggle's secrets cannot be read ({_secret_trouble(error)}); turn Internet on"
                " under Settings."
            ) from error
        refused = _http_code(error) in _REFUSED
        if refused or time.monotonic() + wait > until:
            raise RelayError(
                f"Kaggle's secret {label} cannot be read ({_secret_trouble(error)});"
                f" {_REFUSED_REMEDY if refused else _PASSING_REMEDY}."
            ) from error
        if wait == FIRST_WAIT_SECONDS:
            say(
                f"Kaggle's secret {label} cannot be read ({_secret_trouble(error)}); trying again"
                f" for {SECRET_SECONDS:.0f} s"
            )
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def _ask_kaggle(label: str) -> tuple[str, Exception | None]:
    """The secret, empty where there is none, or what went wrong and may pass."""
    import kaggle_secrets

    try:
        return str(kaggle_secrets.UserSecretsClient().get_secret(label)), None
    except _PASSING as error:
        return "", error
    except Exception as error:  # the client's own kinds have changed names
        if not type(error).__module__.partition(".")[0].startswith("kaggle"):
            raise
        return "", None if _is_not_there(error) else error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from; urllib keeps the system's own as `reason`."""
    while error is not None:
        yield error
        reason = getattr(error, "reason", None)
        if isinstance(reason, BaseException):
            yield reason
        error = error.__cause__ or error.__context__


def _http_code(error: BaseException) -> int | None:
    """The status of the answer: the client reports it as an error of the connection."""
    codes = (getattr(found, "code", None) for found in _chain(error))
    return next((code for code in codes if isinstance(code, int)), None)


def _is_unresolved(error: BaseException) -> bool:
    return any(isinstance(found, socket.gaierror) for found in _chain(error))


def _is_not_there(error: Exception) -> bool:
    """By the words that Kaggle's own client goes by (`UserSecretsClient.get_gcloud_credential`)."""
    return _http_code(error) is None and "no user secrets exist" in str(error).lower()


def _secret_trouble(error: Exception) -> str:
    code = _http_code(error)
    if code is not None:
        return f"the service answers HTTP {code} {http.client.responses.get(code, '')}".rstrip()
    if any(isinstance(found, TimeoutError) for found in _chain(error)):
        return "the service does not answer"
    if isinstance(error, ValueError | http.client.HTTPException):
        return "what the service answers is cut off or no JSON"
    words = " ".join(str(error).split())[:LONGEST_WORDS]
    return words.rstrip(".") or type(error).__name__


def _from_kaggle(environment: MutableMapping[str, str], say: Callable[[str], None]) -> str:
    """Kaggle patches the client library for an attached account; a gcloud login is a secret."""
    if "GCS" in environment.get("KAGGLE_KERNEL_INTEGRATIONS", "").upper().split(":"):
        return "the account attached under Add-ons > Google Cloud Services"
    key = kaggle_secret("__gcloud_sdk_auth__", environment, say)
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
