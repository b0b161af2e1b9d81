#!/bin/sh
# Sourced by dracut before it looks for devices: the web server of the tests, on the loopback interface.
if [ -d /www ]; then
    ip link set lo up
    busybox httpd -p 127.0.0.1:8081 -h /www
fi
