"""Become another program that is killed when its parent process ends.

    leash.py PARENT_PID PROGRAM [ARGUMENT ...]

On Linux the kernel sends SIGKILL when the parent's thread ends (prctl(2), PR_SET_PDEATHSIG), which remains
set over exec. Elsewhere a killed parent leaves its server running. This is a separate program because
`preexec_fn` is unsafe in a process with threads.
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
        if os.getppid() != int(parent):  # the parent ended before prctl
            sys.exit("the parent process has ended")
    # Python ignores these two signals, which would remain ignored over exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execvp(argv[0], argv)  # noqa: S606 - running the program it is given is its purpose


if __name__ == "__main__":
    main()
