"""Become another program that dies with the process that started it.

    leash.py PARENT_PID PROGRAM [ARGUMENT ...]

On Linux the kernel sends SIGKILL when the thread that started us ends (prctl(2), PR_SET_PDEATHSIG);
that survives exec. Elsewhere there is no such thing and a killed parent leaves its server behind.
It is a program of its own because `preexec_fn` is unsafe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *argv = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it was gone before we asked
            sys.exit("the process that wanted this server is gone")
    # Python ignores these two, and what is ignored stays so over exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execvp(argv[0], argv)  # noqa: S606 - running the program it is given is its purpose


if __name__ == "__main__":
    main()
