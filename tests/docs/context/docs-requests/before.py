import subprocess

from rides import RideStarted, bus

worker = subprocess.Popen(["eventml", "run", "rides:bus", "--until-idle", "5"])
