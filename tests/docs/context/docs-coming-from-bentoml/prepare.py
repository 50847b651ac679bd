"""Create the topics of the app."""

import subprocess

command = "eventml topics create rides:bus --backend kafka://localhost:9092"
subprocess.run(command.split(), check=True)
