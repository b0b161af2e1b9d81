#!/bin/sh
# Sourced by dracut when a network interface is up.
: >/tmp/ddictl.online
