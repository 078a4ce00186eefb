"""Sends the requests of recorded conversations to a stack and compares what comes back.

  replay.py SHARED SOCKETS FOLDER TRACE...

SHARED has the recorded conversations and an independent decoder of the protocol; SOCKETS is where the stack's sockets are; FOLDER
takes the place of the recorded one and is as long. The conversations are one story: what one makes, a later one uses. Each
request is the recorded frame, but for what this stack gave out itself (uuids, numbers of registrations) and FOLDER. Each
recorded answer is waited for, decoded with libvirt's own structures, and compared value by value. Prints one JSON line for each
answer: {"trace", "n", "what", "differences": [[PATH, RECORDED, SEEN], ...]}, or {"trace", "n", "skipped": WHY}.
"""
import collections
import importlib.machinery
import importlib.util
import json
import os
import re
import select
import socket
import sys
import time
import xml.etree.ElementTree as ET

sys.dont_write_bytecode = True
SHARED, SOCKETS, FOLDER, TRACES = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
RECORDED_FOLDER = "/var/tmp/flowd"
NAMES = {"sock": "libvirt-sock", "ro": "libvirt-sock-ro"}
# Seconds for an answer, and for what comes unasked.
PATIENCE, MESSAGE_PATIENCE = 30, 4
# What decides about the answer, of an error; its words are each implementation's own.
WORDS = ("message", "str1", "str2", "str3")

loader = importlib.machinery.SourceFileLoader("decoder", os.path.join(SHARED, "tools/rpc-decode"))
decoder = importlib.util.module_from_spec(importlib.util.spec_from_loader("decoder", loader))
loader.exec_module(decoder)
schema = decoder.Schema(os.path.join(SHARED, "protocol"))


class Connection:
    all = []

    def __init__(self, name):
        self.all.append(self)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(os.path.join(SOCKETS, name))
        self.splitter = decoder.Splitter()
        self.waiting = collections.deque()
        self.ended = False
        # Streams of which bytes have come.
        self.begun = set()

    @classmethod
    def receive(cls, until):
        """Takes in what comes to any of them, since each answers signs of life; False if nothing does."""
        ready, _, _ = select.select([one.socket for one in cls.all], [], [], max(0.001, until - time.monotonic()))
        for one in [one for one in cls.all if one.socket in ready]:
            one.take()
        return bool(ready)

    def take(self):
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionError:
            data = b""
        if not data:
            self.end()
        for kind, frame in self.splitter.feed(data):
            assert kind == "frame", kind
            record = schema.frame(frame)
            if record["prog"] == "keepalive" and record["proc"] == "PING":
                self.send(schema.make("keepalive", "PONG", mtype=decoder.MESSAGE))
            elif "undecoded" not in record and schema.rebuild(record) != frame:
                raise SystemExit(f"{record['proc']} is not what its structures make of it")
            else:
                self.waiting.append(record)

    def send(self, frame):
        """Sends; False if the other side has hung up."""
        try:
            self.socket.sendall(frame)
        except OSError:
            return False
        return True

    def end(self):
        self.ended = True
        if self in self.all:
            self.all.remove(self)
            self.socket.close()

    def find(self, fits, patience):
        """The first frame that fits; None if none comes."""
        until = time.monotonic() + patience
        while True:
            for record in self.waiting:
                if fits(record):
                    self.waiting.remove(record)
                    return record
            if self.ended or time.monotonic() > until:
                return None
            self.receive(until)


class Story:
    def __init__(self):
        # What this stack gave out, for what is recorded.
        self.uuids = {}
        self.numbers = {}

    def ours(self, value, key=""):
        """A recorded value as it is here."""
        if isinstance(value, dict):
            return {name: self.ours(part, name) for name, part in value.items()}
        if isinstance(value, list):
            return [self.ours(part, key) for part in value]
        if isinstance(value, str):
            value = value.replace(RECORDED_FOLDER, FOLDER)
            # The recorded guest had a shell without being told to.
            value = value.replace("quiet panic=1<", "quiet panic=-1 bulkhead.mode=shell<")
            return re.sub("|".join(self.uuids) or "$.", lambda match: self.uuids[match[0]], value)
        if key == "callbackID":
            return self.numbers.get((self.connection, value), value)
        return value

    def learn(self, recorded, seen):
        """Notes what is this stack's own to give out, where it was given out."""
        if isinstance(recorded, dict) and isinstance(seen, dict):
            for key, value in recorded.items():
                other = seen.get(key)
                if key == "uuid" and isinstance(other, str) and other != value:
                    self.uuids.setdefault(value, other)
                elif key == "callbackID" and other is not None:
                    self.numbers[self.connection, value] = other
                else:
                    # Not out of lists, whose order is each implementation's own.
                    self.learn(value, other)

    def request(self, line):
        """The frame to send for a recorded one; None if it was not recorded whole."""
        if "hex" in line:
            record = schema.frame(bytes.fromhex(line["hex"]))
        elif line["type"] == "stream":
            head = schema.make(line["prog"], line["proc"], None, line["serial"], decoder.STREAM, decoder.CONTINUE, b"x" * line["data"]["len"])
            return head
        else:
            if "characters)" in json.dumps(line.get("args")):
                return None
            body = schema.encode(schema.by_name[line["prog"], line["proc"]]["args"], self.ours(line["args"]))
            return schema.make(line["prog"], line["proc"], None, line["serial"], decoder.CALL, decoder.OK, body)
        if record.get("_kind") == "args" and record["args"] is not None:
            record["args"] = self.ours(record["args"])
        return schema.rebuild(record)


def parameters(value):
    """Typed parameters by their names: their order and number is not the structure."""
    if isinstance(value, list) and value and all(isinstance(part, dict) and {"field", "value"} <= set(part) for part in value):
        return {part["field"]: part["value"] for part in value}
    return value


def by_name(objects):
    """Objects of a list in an order that does not depend on who made it."""
    named = all(isinstance(part, dict) and ("name" in part or "dom" in part) for part in objects)
    return sorted(objects, key=lambda part: part.get("name") or part["dom"]["name"]) if named else objects


def tree(element):
    """An XML element as a value: what is there several times is a list."""
    parts = {"@" + name: text for name, text in element.items()}
    if element.text and element.text.strip():
        parts["text"] = element.text.strip()
    for child in element:
        parts.setdefault(child.tag, []).append(tree(child))
    return parts


def is_xml(value):
    return isinstance(value, str) and value.lstrip().startswith("<") and "characters)" not in value


def differences(recorded, seen, path=""):
    recorded, seen = parameters(recorded), parameters(seen)
    if is_xml(recorded) and is_xml(seen):
        recorded, seen = ET.fromstring(recorded), ET.fromstring(seen)
        return differences({recorded.tag: [tree(recorded)]}, {seen.tag: [tree(seen)]}, path)
    if isinstance(recorded, dict) and isinstance(seen, dict):
        found = []
        for key in sorted(recorded.keys() | seen.keys()):
            if key not in WORDS:
                found += differences(recorded.get(key, "ABSENT"), seen.get(key, "ABSENT"), f"{path}/{key}")
        return found
    if isinstance(recorded, list) and isinstance(seen, list):
        recorded, seen = by_name(recorded), by_name(seen)
        found = [] if len(recorded) == len(seen) else [[path + "#", len(recorded), len(seen)]]
        for one, other in zip(recorded, seen):
            found += differences(one, other, path)
        return found
    if isinstance(recorded, str) and isinstance(seen, str) and (cut := re.fullmatch(r"(.*)\.\.\.\(\d+ characters\)", recorded, re.DOTALL)):
        # Recorded up to there.
        recorded, seen = cut[1], seen[: len(cut[1])]
    return [] if recorded == seen else [[path, recorded, seen]]


def whole(line):
    """A recorded answer with all its values: long texts are cut in the readable form."""
    return schema.frame(bytes.fromhex(line["hex"])) if "hex" in line else line


def replay(story, trace):
    connections = {}
    with open(os.path.join(SHARED, "protocol/traces", trace + ".jsonl")) as file:
        lines = [json.loads(line) for line in file]
    unsent = set()
    for line in lines:
        number = line["conn"]
        story.connection = (trace, number)
        say = lambda **more: print(json.dumps({"trace": trace, "n": line["n"], **more}))  # noqa: B023, E731
        if "opened" in line:
            connections[number] = Connection(NAMES[line["opened"]])
        elif "closed" in line:
            if line["dir"] == "C>S":
                connections[number].end()
        elif line["prog"] == "keepalive":
            # Each side asks when it thinks that it is time to.
            continue
        elif line["dir"] == "C>S":
            frame = story.request(line)
            if frame is None:
                unsent.add((number, line["serial"]))
                say(skipped="the request is not recorded whole")
                continue
            if not connections[number].send(frame):
                say(what=f"{line['proc']} {line['type']}", differences=[["", "a connection", None]])
        else:
            if (number, line["serial"]) in unsent and line["type"] != "message":
                continue
            recorded = whole(line)
            kind, what = line["type"], f"{line['proc']} {line['type']}"
            empty = kind == "stream" and recorded.get("data", {}).get("len") == 0
            if kind == "stream" and not empty:
                # In which pieces bytes come is chance; that some come is asked for where they begin.
                if line["serial"] in connections[number].begun:
                    continue
                connections[number].begun.add(line["serial"])

            def fits(record):
                same = (record["prog"], record["num"], record["type"]) == (line["prog"], line["num"], line["type"])  # noqa: B023
                if kind == "stream":  # noqa: B023
                    same = same and record["status"] == line["status"] and (record["data"]["len"] == 0) == empty  # noqa: B023
                return same and (kind == "message" or record["serial"] == line["serial"])  # noqa: B023

            seen = connections[number].find(fits, PATIENCE if kind in ("reply", "stream") else MESSAGE_PATIENCE)
            if seen is None or "undecoded" in seen:
                say(what=what, differences=[["", "an answer", seen and seen["undecoded"]]])
                continue
            if kind == "stream":
                say(what=what, differences=[])
                continue
            if seen["status"] != line["status"]:
                say(what=what, differences=[["/status", line["status"], seen["status"]], ["/error", recorded.get("error"), seen.get("error")]])
                continue
            key = recorded["_kind"] if "_kind" in recorded else next(k for k in ("ret", "error", "msg") if k in recorded)
            story.learn(recorded.get(key), seen.get(key))
            say(what=what, differences=differences(story.ours(recorded.get(key)), seen.get(key)))


story = Story()
for trace in TRACES:
    replay(story, trace)
