// Source and result in one place, divided by a line that a slider moves; two videos play as one.

// What is far from the screen is not fetched: a long history has many films.
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    target.src = target.dataset.src;
    near.unobserve(target);
  }
}, { rootMargin: "300px" });

function element(url, kind, alt) {
  const made = document.createElement(kind);
  made.dataset.src = url;
  near.observe(made);
  if (kind === "img") made.alt = alt;
  else {
    Object.assign(made, { muted: true, loop: true, playsInline: true, preload: "auto" });
    made.setAttribute("aria-label", alt);
  }
  return made;
}

export function wipe(beforeUrl, afterUrl, title) {
  const kind = beforeUrl.endsWith(".png") ? "img" : "video";
  const figure = document.createElement("figure");
  figure.className = "wipe";
  const frames = document.createElement("div");
  frames.className = "frames";
  const before = element(beforeUrl, kind, `Source of ${title}`);
  const after = element(afterUrl, kind, `Result of ${title}`);
  after.classList.add("top");
  const line = document.createElement("div");
  line.className = "line";
  frames.append(before, after, line);

  const caption = document.createElement("figcaption");
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: 0, max: 100, value: 50 });
  slider.setAttribute("aria-label", "Line between source and result");
  slider.oninput = () => frames.style.setProperty("--cut", `${slider.value}%`);
  caption.append("Source", slider, "Result");
  if (kind === "video") caption.append(playButton(before, after));
  frames.onpointermove = (event) => {
    if (event.pointerType !== "mouse") return;
    const bounds = frames.getBoundingClientRect();
    slider.value = (100 * (event.clientX - bounds.left)) / bounds.width;
    slider.oninput();
  };
  figure.append(frames, caption);
  return figure;
}

function playButton(leader, follower) {
  const button = document.createElement("button");
  button.type = "button";
  const show = () => (button.textContent = leader.paused ? "Play" : "Pause");
  button.onclick = async () => {
    if (leader.paused) await Promise.allSettled([leader.play(), follower.play()]);
    else [leader, follower].forEach((video) => video.pause());
    show();
  };
  leader.ontimeupdate = () => {
    if (Math.abs(leader.currentTime - follower.currentTime) > 0.06) follower.currentTime = leader.currentTime;
  };
  leader.onplay = leader.onpause = show;
  show();
  return button;
}
