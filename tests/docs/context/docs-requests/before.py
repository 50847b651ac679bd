import subprocess

from rides import RideStarted, bus

worker = subprocess.Popen(["eventml", "run", "rides:bus", "--until-idle", "10"], stderr=subprocess.PIPE)
while b" running " not in worker.stderr.readline():  # requests go to a worker that has started
    pass
