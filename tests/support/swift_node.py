"""A whole Swift in one process, of Debian's packages: a proxy with tempauth, TempURL, large objects and S3, and the
account, container and object servers behind it, each on a port of its own.

    /usr/bin/python3 swift_node.py DIRECTORY

prints the proxy's port when it answers. A dictionary stands in for memcached, where tempauth keeps its tokens:
SIGUSR1 empties it, so that no token given out holds any more. `DIRECTORY/requests.log` has a line for each answer.
"""

# ruff: noqa: E402 # eventlet wants to be first
# mypy: ignore-errors
# (it runs under the system's Python, whose packages are not there where types are checked)
import eventlet

eventlet.monkey_patch()

import array
import os
import signal
import socket
import sys
from time import time as now

from eventlet import wsgi
from swift.common import utils

DIRECTORY = sys.argv[1] if len(sys.argv) > 1 else "."
PARTITION_POWER = 2
PROXY = """
[DEFAULT]
swift_dir = {directory}
[pipeline:main]
pipeline = catch_errors cache bulk tempurl s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
paste.filter_factory = swift_node:cache_factory
[filter:bulk]
use = egg:swift#bulk
[filter:tempurl]
use = egg:swift#tempurl
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_reader = reading
[filter:s3api]
use = egg:swift#s3api
location = eu-west-1
[filter:slo]
use = egg:swift#slo
min_segment_size = 1
[filter:dlo]
use = egg:swift#dlo
"""
STORE = """
[DEFAULT]
swift_dir = {directory}
devices = {directory}/devices
mount_check = false
fallocate_reserve = 0
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""


class Cache:
    """As much of memcached's client as the pipeline uses."""

    def __init__(self):
        self.found = {}

    def get(self, key, *_, **__):
        value, until = self.found.get(key, (None, 0))
        return value if until > now() else None

    def set(self, key, value, *_, time=0, **__):
        self.found[key] = value, now() + (time or 3600)
        if "/token/" in key:
            with open(DIRECTORY + "/tokens.log", "a") as log:
                log.write(key.rpartition("/")[2] + "\n")

    def delete(self, key, *_, **__):
        self.found.pop(key, None)

    def incr(self, key, delta=1, *_, **__):
        self.set(key, (self.get(key) or 0) + delta)
        return self.get(key)

    def decr(self, key, delta=1, *_, **__):
        return self.incr(key, -delta)


CACHE = Cache()


def cache_factory(*_, **__):
    def around(app):
        def call(environ, start_response):
            environ["swift.cache"] = CACHE
            return app(environ, start_response)

        return call

    return around


def logged(app, path):
    """The app, with a line `METHOD PATH STATUS RANGE` for each answer that is begun."""

    def call(environ, start_response):
        asked = "{} {}?{}".format(
            *(environ.get(key, "") for key in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING"))
        )

        def begin(status, headers, *rest):
            with open(path, "a") as log:
                log.write("{} {} {}\n".format(asked, status[:3], environ.get("HTTP_RANGE", "-")))
            return start_response(status, headers, *rest)

        return app(environ, begin)

    return call


def listener(port=0):
    found = eventlet.listen(("127.0.0.1", port))
    return found, found.getsockname()[1]


def main():
    from swift.common.ring import RingData

    # rings, policies and the hash of paths are looked for in files that do not exist here
    os.makedirs(DIRECTORY + "/devices/sda", exist_ok=True)
    with open(DIRECTORY + "/swift.conf", "w") as conf:
        conf.write("[swift-hash]\nswift_hash_path_suffix = test\n")
    utils.SWIFT_CONF_FILE = DIRECTORY + "/swift.conf"
    from swift.common.wsgi import loadapp

    sys.modules["swift_node"] = sys.modules["__main__"]
    for kind in ("account", "container", "object"):
        found, port = listener()
        device = {
            "id": 0, "zone": 0, "region": 1, "ip": "127.0.0.1", "port": port, "device": "sda", "weight": 1.0,
            "replication_ip": "127.0.0.1", "replication_port": port,
        }  # fmt: skip
        table = [array.array("H", [0] * (1 << PARTITION_POWER))]
        RingData(table, [device], 32 - PARTITION_POWER).save(f"{DIRECTORY}/{kind}.ring.gz")
        path = f"{DIRECTORY}/{kind}-server.conf"
        with open(path, "w") as conf:
            conf.write(STORE.format(directory=DIRECTORY, kind=kind))
        serve(found, loadapp(path, global_conf={"log_name": kind}))
    path = DIRECTORY + "/proxy-server.conf"
    with open(path, "w") as conf:
        conf.write(PROXY.format(directory=DIRECTORY))
    found, port = listener()
    signal.signal(signal.SIGUSR1, lambda *_: CACHE.found.clear())
    serve(found, logged(loadapp(path, global_conf={"log_name": "proxy"}), DIRECTORY + "/requests.log"))
    print(port, flush=True)
    while True:
        eventlet.sleep(3600)


def serve(found: socket.socket, app):
    eventlet.spawn(wsgi.server, found, app, log_output=False, keepalive=True)


if __name__ == "__main__":
    main()
