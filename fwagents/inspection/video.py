"""Write pictures as a GIF or an MP4 file."""

import io
import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from fwagents.files import replacing
from fwagents.inspection.traces import Array

LAST = 1.5  # additional seconds for which a GIF shows its last picture


def write_video(frames: Iterable[Array], path: Path | str, fps: float) -> None:
    """Write a GIF that repeats, or an MP4. At any time the file is complete or absent.

    Args:
        frames: pictures uint8 [height, width, 3], all of one size.
        path: path that ends in .gif or .mp4.
        fps: pictures a second, above 0.

    Raises:
        ValueError: the path has another ending.
        ImportError: imageio-ffmpeg, which an MP4 needs, is not installed.
    """
    path = Path(path)
    writer = {".gif": _write_gif, ".mp4": _write_mp4}.get(path.suffix.lower())
    if writer is None:
        raise ValueError(f"path is {str(path)!r}, expected a name that ends in .gif or .mp4")
    writer(frames, path, fps)


def _write_gif(frames: Iterable[Array], path: Path, fps: float) -> None:
    with replacing(path) as file:
        file.write(gif(frames, fps))


def gif(frames: Iterable[Array], fps: float) -> bytes:
    """Return the content of a GIF that repeats; arguments as for ``write_video``."""
    # All pictures share the palette of the middle one, so that colours do not flicker and files stay small.
    images = [Image.fromarray(frame) for frame in frames]
    palette = images[len(images) // 2].quantize(128)
    reduced = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [round(1000 / fps)] * len(images)
    durations[-1] += round(1000 * LAST)
    content = io.BytesIO()
    reduced[0].save(content, "GIF", save_all=True, append_images=reduced[1:], duration=durations, loop=0)
    return content.getvalue()


def _write_mp4(frames: Iterable[Array], path: Path, fps: float) -> None:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError('an MP4 needs imageio-ffmpeg: pip install "fwagents[video]"') from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.mp4")  # ffmpeg selects the format by the ending
    writer = None
    try:
        for frame in frames:
            if writer is None:
                size = (frame.shape[1], frame.shape[0])
                writer = imageio_ffmpeg.write_frames(str(temporary), size, fps=fps, codec="libx264", macro_block_size=2)
                writer.send(None)
            writer.send(frame.tobytes())
        if writer is not None:
            writer.close()
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
