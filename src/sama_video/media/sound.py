"""Sound on its way from a source file to its result."""

from dataclasses import dataclass
from fractions import Fraction

import av


@dataclass
class SoundCopy:
    """Sound on its way from one container to another."""

    source: av.container.InputContainer
    template: av.AudioStream
    stream: av.AudioStream
    copies: bool

    def mux(self, target: av.container.OutputContainer, start: Fraction, end: Fraction) -> None:
        """Everything that sounds in `start .. start + end`, moved to begin at 0."""
        video_start = self.source.streams.video[0].start_time or 0
        origin = video_start * self.source.streams.video[0].time_base + start if self.source.streams.video else start
        with self.source:
            for packet in self.source.demux(self.template):
                if packet.pts is None:
                    continue
                time = packet.pts * packet.time_base - origin
                if time >= end:
                    break
                if time + (packet.duration or 0) * packet.time_base <= 0:
                    continue
                offset = round(origin / packet.time_base)
                if self.copies:
                    packet.pts, packet.dts = packet.pts - offset, (packet.dts or packet.pts) - offset
                    packet.stream = self.stream
                    target.mux(packet)
                else:
                    for frame in packet.decode():
                        frame.pts = None
                        target.mux(self.stream.encode(frame))
            if not self.copies:
                target.mux(self.stream.encode())
