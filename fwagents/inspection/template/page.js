"use strict";
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const make = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const MILLION = 1e6, MOST = 4, FEW = 8, NARROWEST = 3; // of shares; steps named; actions listed; pixels of a bar
  const state = { episode: null, step: 0, pointed: null, timer: null };

  const percent = (share) => (share > 0 && share < 0.01 ? "< 1\u00a0%" : `${Math.round(100 * share)}\u00a0%`);
  const rounded = (x) => Number(x.toPrecision(4));
  const minus = (text) => String(text).replace("-", "\u2212");
  const fixed = (x) => (x === null ? "not finite" : minus(Math.abs(x) >= 1e4 ? x.toPrecision(3) : x.toFixed(2)));
  const signed = (x) => (x > 0 ? "+" : "") + fixed(x);
  const plain = (x) => (x === null ? "not finite" : (x > 0 ? "+" : "") + minus(rounded(x)));
  const last = () => state.episode.steps - (state.episode.screens ? 0 : 1);
  const over = (step) => step >= state.episode.steps;
  const called = (step) => (over(step) ? "the end" : `step ${step + 1}`);

  // Pictures.
  const image = (url, description) => {
    const img = make("img");
    img.decoding = "sync";
    img.alt = description;
    img.addEventListener("load", () => img.classList.toggle("pixels", img.naturalWidth < 200));
    img.src = url;
    return img;
  };
  const pictured = (step) => {
    // What a step looked like, in small: what was seen, or the screen.
    const { sights, screens } = state.episode;
    const seen = sights.find((part) => part.pictures);
    const index = seen ? seen.pictures[step] : screens && screens[step];
    return typeof index === "number" ? image(data.pictures[index], "") : null;
  };

  // Text screens: what is coloured in the terminal is marked.
  const terminal = (text) => {
    const shown = make("pre");
    text.split(/\x1b\[([\d;]*)m/).forEach((part, n, parts) => {
      if (n % 2) return;
      const words = part.replace(/\x1b\[[\d;?]*[A-Za-z]/g, "");
      shown.append(n && !/^0*$/.test(parts[n - 1]) ? make("mark", "", words) : words);
    });
    return shown;
  };

  // A bar for a number from -largest to largest, or for a share.
  const bar = (what, amount, ...marks) => {
    const made = make("div", "bar");
    const track = make("span", "track");
    track.append(...marks);
    made.append(make("span", "what", what), track, make("span", "amount", amount));
    return made;
  };
  const mark = (name, from, to) => {
    const made = make("i", name);
    made.style.left = `${100 * Math.min(from, to)}%`;
    if (name !== "mean" && name !== "taken") made.style.width = `${100 * Math.abs(to - from)}%`;
    return made;
  };
  const largest = (rows) => Math.max(0, ...rows.map((row) => Math.max(...row.map((x) => Math.abs(x ?? 0))))) || 1;
  const zero = () => make("i", "zero");

  // The page keeps its height when the episode is over.
  const hold = (element, held) => { element.style.minHeight = held ? `${element.offsetHeight}px` : ""; };

  function showScreen(step) {
    const { screens } = state.episode;
    at("screen").hidden = !screens;
    if (!screens) return;
    const screen = screens[step];
    at("screen").querySelector(".view").replaceChildren(
      typeof screen === "number" ? image(data.pictures[screen], `Screen at ${called(step)}`) : terminal(screen));
  }

  function showSights(step) {
    const view = at("sights").querySelector(".view");
    hold(view, over(step));
    if (over(step)) return view.replaceChildren(make("p", "over", "The episode is over."));
    view.replaceChildren(...state.episode.sights.map((part) => {
      const figure = make("figure", part.pictures ? "" : "bars");
      if (part.name !== null) figure.append(make("figcaption", "", part.name));
      if (part.pictures) {
        const img = image(data.pictures[part.pictures[step]], `${part.name ?? "Observation"} at ${called(step)}`);
        img.classList.add("pixels");
        figure.append(img);
      } else {
        const scale = (part.scale ??= largest(part.numbers));
        figure.append(...part.numbers[step].map((x, n) =>
          bar(part.names[n], signed(x), mark("number", 0.5, 0.5 + (x ?? 0) / scale / 2), zero())));
      }
      return figure;
    }));
  }

  function showAction(step) {
    const { actions, choices, rewards, values } = state.episode;
    at("decision").hidden = !actions;
    if (!actions) return;
    const ended = over(step);
    hold(at("actions"), ended);
    const sum = rewards.slice(0, step + 1).reduce((whole, reward) => whole + (reward ?? 0), 0);
    const quantities = [
      ["Value", ended ? "\u2013" : signed(values[step])],
      ["Reward", ended ? "\u2013" : plain(rewards[step])],
      ["Return", plain(sum)],
    ];
    at("quantities").replaceChildren(...quantities.map(([name, amount]) => {
      const pair = make("div");
      pair.append(make("dt", "", name), make("dd", "", amount));
      return pair;
    }));
    at("action-heading").textContent = choices ? "Probability, and the action taken \u2713" : "Mean \u00b1 deviation, and the action taken \u25cf";
    at("actions").replaceChildren(...(ended ? [] : choices ? discrete(step) : continuous(step)));
  }

  function discrete(step) {
    const { actions, choices, probabilities } = state.episode;
    const taken = actions[step], shares = probabilities[step], shown = [];
    const binary = choices.length > 1 && choices.every((names) => names.length === 1);
    let first = 0;
    choices.forEach((names, part) => {
      let rows = names.map((name, n) => ({
        name: binary ? `bit ${part + 1}` : name,
        share: shares[first + n],
        chosen: binary ? taken[part] === 1 : taken[part] === n,
      }));
      first += names.length;
      if (choices.length > 1 && !binary) shown.push(make("div", "part", `part ${part + 1}`));
      if (rows.length > FEW) {
        const count = rows.length;
        rows = rows.sort((a, b) => b.chosen - a.chosen || b.share - a.share).slice(0, FEW);
        shown.push(make("div", "part", `the action taken and the likeliest of ${count}`));
      }
      for (const { name, share, chosen } of rows) {
        const made = bar(name, fixed(share), mark("", 0, share ?? 0));
        made.classList.toggle("chosen", chosen);
        shown.push(made);
      }
    });
    return shown;
  }

  function continuous(step) {
    const { actions, means, deviations } = state.episode;
    const scale = (state.episode.scale ??= means
      ? largest([...actions, ...means.map((row, t) => row.map((x, n) => Math.abs(x ?? 0) + (deviations[t][n] ?? 0)))])
      : largest(actions));
    const where = (x) => 0.5 + Math.max(-1, Math.min(1, (x ?? 0) / scale)) / 2;
    return actions[step].map((taken, n) => {
      const name = actions[step].length > 1 ? `part ${n + 1}` : "action";
      if (!means) return bar(name, signed(taken), zero(), mark("taken", where(taken), 1));
      const mean = means[step][n], deviation = deviations[step][n];
      return bar(name, `${signed(mean)} \u00b1 ${fixed(deviation)}`, zero(),
        mark("spread", where(mean - deviation), where(mean + deviation)), mark("mean", where(mean), 1), mark("taken", where(taken), 1));
    });
  }

  // Charts over the steps of the episode: all have the same axis.
  const chart = (name, label) => {
    const row = at("chart").content.firstElementChild.cloneNode(true);
    row.querySelector(".name").textContent = name;
    const svg = row.querySelector("svg");
    svg.setAttribute("viewBox", `0 0 ${state.episode.steps} 1`);
    svg.setAttribute("aria-label", label);
    row.addEventListener("pointermove", (event) => point(row, event));
    row.addEventListener("pointerleave", () => point(row, null));
    svg.addEventListener("click", (event) => go(stepAt(svg, event)));
    return row;
  };
  const stepAt = (svg, event) => {
    const box = svg.getBoundingClientRect();
    return Math.max(0, Math.min(state.episode.steps - 1, Math.floor(((event.clientX - box.left) / box.width) * state.episode.steps)));
  };
  const draw = (row, path, kind) => {
    const drawn = row.querySelector(".mark");
    drawn.setAttribute("class", `mark ${kind}`);
    drawn.setAttribute("d", path);
  };
  // Neighbouring steps share a bar where the screen is too narrow for one bar each.
  const width = () => Math.max(1, ...[...document.querySelectorAll(".row svg")].map((svg) => svg.clientWidth));
  const bin = () => Math.max(1, Math.ceil((state.episode.steps * NARROWEST) / width()));
  const binned = (shares, size) => {
    const bins = [];
    shares.forEach((share, tau) => { bins[Math.floor(tau / size)] = (bins[Math.floor(tau / size)] ?? 0) + share; });
    return bins;
  };

  function buildCharts() {
    const { steps, values, rewards, looks } = state.episode;
    at("looks").hidden = !looks;
    at("course").hidden = !values;
    const heads = looks ? looks.shares[0].length : 0;
    at("heads").replaceChildren(...Array.from({ length: heads }, (_, n) => {
      const row = chart(heads > 1 ? `head ${n + 1}` : looks.exact ? "memory" : "gradient", "");
      row.dataset.head = n;
      row.classList.toggle("tall", heads === 1);
      return row;
    }));
    if (looks) {
      at("basis").textContent = !looks.exact
        ? `Estimated by gradients, because this memory has no exact attention: a bar is the share of a step\u2019s ${state.episode.actions ? "observation in what moves the action" : "input in what moves the score"}.`
        : `Exact: the memory reads a weighted sum of what ${looks.own ? "this step and the steps before it" : "the steps before"} wrote, and a bar is a step\u2019s share in it.` +
          (heads > 1 ? " All heads together make 100\u00a0%." : "");
    }
    if (!values) return at("curves").replaceChildren();
    const valueRow = chart("value", "Value of every step"), rewardRow = chart("reward", "Reward of every step");
    curve(valueRow, values, (y) => values.map((v, t) => `${t ? "L" : "M"}${t + 0.5} ${y(v)}`).join("") + (steps === 1 ? "h.01" : ""), "line");
    curve(rewardRow, rewards, (y) => rewards.map((r, t) => (r ? `M${t + 0.1} ${y(0)}V${y(r)}h.8V${y(0)}z` : "")).join(""), "reward");
    at("curves").replaceChildren(valueRow, rewardRow);
  }

  function curve(row, numbers, path, kind) {
    const found = numbers.filter((x) => x !== null);
    row.querySelector(".name").append(make("small", "", `${minus(Number(Math.min(...found).toPrecision(2)))} to ${minus(Number(Math.max(...found).toPrecision(2)))}`));
    const low = Math.min(0, ...numbers.map((x) => x ?? 0)), high = Math.max(0, ...numbers.map((x) => x ?? 0));
    const y = (x) => rounded(0.94 - (0.88 * ((x ?? 0) - low)) / (high - low || 1));
    row.querySelector(".zero").setAttribute("d", `M0 ${y(0)}H${state.episode.steps}`);
    draw(row, path(y), kind);
  }

  function buildTicks() {
    const { steps } = state.episode;
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000].find((n) => (n * width()) / steps >= 36) ?? steps;
    const shown = Array.from({ length: Math.floor(steps / every) }, (_, n) => (n + 1) * every);
    if (every > 2) shown.unshift(1);
    for (const ticks of document.querySelectorAll(".ticks")) {
      ticks.replaceChildren(...shown.map((step) => {
        const tick = make("span", "", step);
        tick.style.left = `${(100 * (step - 0.5)) / steps}%`;
        return tick;
      }));
    }
  }

  function showLooks() {
    const { looks, steps } = state.episode;
    const step = state.pointed ?? state.step;
    for (const row of document.querySelectorAll(".row:not(.axis)")) {
      row.querySelector(".now").setAttribute("x", step);
      row.querySelector(".now").style.visibility = over(step) ? "hidden" : "";
      row.querySelector(".cursor").setAttribute("d", over(step) ? "" : `M${step + 0.5} 0V1`);
    }
    if (!looks) return;
    const shares = over(step) ? [] : looks.shares[step];
    const size = bin();
    const bars = shares.map((head) => binned(head, size));
    const tallest = Math.max(0, ...bars.map((head) => Math.max(...head)));
    [...at("heads").children].forEach((row, n) => {
      const heights = bars[n] ?? [];
      const path = heights.map((share, number) => {
        const height = rounded(tallest ? (0.94 * share) / tallest : 0);
        const left = number * size, width = Math.min(size, steps - left);
        return height > 0 ? `M${rounded(left + 0.08 * width)} 1v${-height}h${rounded(0.84 * width)}v${height}z` : "";
      });
      draw(row, path.join(""), "");
      const most = heights.indexOf(Math.max(...heights));
      row.querySelector("svg").setAttribute("aria-label",
        tallest ? `${row.querySelector(".name").textContent}: ${span(most, size)} most, ${percent(heights[most] / MILLION)}` : "nothing looked back at");
    });
    const whole = (shares[0] ?? []).map((_, tau) => shares.reduce((sum, head) => sum + head[tau], 0));
    const ranked = whole.map((share, tau) => ({ share, tau })).filter(({ share }) => share > 0).sort((a, b) => b.share - a.share);
    at("looks-heading").textContent = over(step) ? "What it looked back at" : `What step ${step + 1} looked back at`;
    at("looks-most").textContent = over(step) ? "The episode is over."
      : !ranked.length ? "Nothing yet."
      : `Most at step ${ranked[0].tau + 1} (${percent(ranked[0].share / MILLION)}). The tallest bar is ${percent(tallest / MILLION)}${size > 1 ? `; a bar is ${size} steps` : ""}.`;
    const buttons = ranked.slice(0, MOST).map(({ share, tau }) => {
      const button = make("button");
      button.type = "button";
      const picture = pictured(tau);
      if (picture) button.append(picture);
      button.append(make("span", "", `step ${tau + 1}`), make("b", "", percent(share / MILLION)));
      button.addEventListener("click", () => go(tau));
      return button;
    });
    at("most").classList.toggle("plain", !pictured(0));
    at("most").replaceChildren(...buttons);
  }

  const span = (number, size) => {
    const first = number * size + 1, end = Math.min(first + size - 1, state.episode.steps);
    return end > first ? `steps ${first}\u2013${end}` : `step ${first}`;
  };

  // Pointing at a bar tells its share; pointing at a step of the curves shows where that step looked.
  function point(row, event) {
    const tip = at("tip");
    tip.hidden = event === null;
    if (event === null) {
      if (state.pointed !== null) { state.pointed = null; showLooks(); }
      return;
    }
    const tau = stepAt(row.querySelector("svg"), event);
    const lines = [];
    if (row.dataset.head === undefined) {
      state.pointed = tau;
      showLooks();
      lines.push(`step ${tau + 1}`, `value ${signed(state.episode.values[tau])}`, `reward ${plain(state.episode.rewards[tau])}`);
    } else {
      const size = bin(), number = Math.floor(tau / size);
      const head = over(state.step) ? [] : state.episode.looks.shares[state.step][row.dataset.head];
      const share = binned(head, size)[number];
      lines.push(span(number, size), share === undefined ? "not seen yet" : `${percent(share / MILLION)} of the look`);
    }
    const picture = pictured(tau);
    tip.replaceChildren(...lines.map((line) => make("div", "", line)), ...(picture ? [picture] : []));
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.max(4, Math.min(event.clientX + 14, document.documentElement.clientWidth - width - 4));
    const top = event.clientY + 18 + height > innerHeight ? Math.max(4, event.clientY - height - 12) : event.clientY + 18;
    tip.style.transform = `translate(${left}px, ${top}px)`;
  }

  function show() {
    const { step, episode } = state;
    at("slider").value = step;
    at("slider").setAttribute("aria-valuetext", over(step) ? "the end" : `step ${step + 1} of ${episode.steps}`);
    at("where").textContent = over(step) ? "the end" : `${step + 1} / ${episode.steps}`;
    at("back").disabled = step === 0;
    at("next").disabled = step === last();
    showScreen(step);
    showSights(step);
    showAction(step);
    showLooks();
  }

  function go(step) {
    state.step = Math.max(0, Math.min(last(), step));
    show();
  }

  function choose(number) {
    pause();
    Object.assign(state, { episode: data.episodes[number], step: 0, pointed: null });
    at("episode").value = number;
    at("slider").max = last();
    document.querySelector("main").classList.toggle("numbers", !state.episode.sights.every((part) => part.pictures));
    buildCharts();
    buildTicks();
    show();
  }

  function play() {
    if (state.step === last()) go(0);
    const tick = () => {
      go(state.step + 1);
      if (state.step === last()) pause();
      else state.timer = setTimeout(tick, 1000 / Number(at("speed").value));
    };
    state.timer = setTimeout(tick, 1000 / Number(at("speed").value));
    at("play").textContent = "Pause";
  }

  function pause() {
    clearTimeout(state.timer);
    state.timer = null;
    at("play").textContent = "Play";
  }

  const toggle = () => (state.timer === null ? play() : pause());

  const asked = new URLSearchParams(location.hash.slice(1)); // #episode=2&step=9&theme=dark
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (document.documentElement.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { at("theme").textContent = dark() ? "Light theme" : "Dark theme"; };
  if (["light", "dark"].includes(asked.get("theme"))) document.documentElement.dataset.theme = asked.get("theme");
  at("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    nameTheme();
  });
  prefersDark.addEventListener("change", nameTheme);
  nameTheme();

  at("title").textContent = data.title;
  data.episodes.forEach(({ rewards }, n) => {
    const sum = rewards && rewards.reduce((whole, reward) => whole + (reward ?? 0), 0);
    const option = make("option", "", rewards ? `${n + 1}, return ${minus(rounded(sum))}` : n + 1);
    option.value = n;
    at("episode").append(option);
  });
  at("episode-choice").hidden = data.episodes.length === 1;
  for (const fps of [...new Set([data.fps, 1, 2, 4, 8, 16, 32])].sort((a, b) => a - b)) {
    const option = make("option", "", `${fps} / s`);
    option.value = fps;
    at("speed").append(option);
  }
  at("speed").value = data.fps;

  at("episode").addEventListener("change", () => choose(Number(at("episode").value)));
  at("slider").addEventListener("input", () => go(Number(at("slider").value)));
  at("back").addEventListener("click", () => go(state.step - 1));
  at("next").addEventListener("click", () => go(state.step + 1));
  at("play").addEventListener("click", toggle);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const steps = { ArrowLeft: state.step - 1, ArrowRight: state.step + 1, Home: 0, End: last() };
    if (event.key in steps) go(steps[event.key]);
    else if (event.key === " " && event.target.tagName !== "BUTTON") toggle();
    else return;
    event.preventDefault();
  });

  choose(Math.max(0, Math.min(data.episodes.length, Number(asked.get("episode") ?? 1) || 1) - 1));
  go((Number(asked.get("step") ?? 1) || 1) - 1);

  // Wider or narrower, the charts have other bars; in a notebook the frame is as high as the page.
  let wide = width();
  new ResizeObserver(() => {
    if (wide !== width()) {
      wide = width();
      buildTicks();
      showLooks();
    }
    const frame = window.frameElement;
    if (frame) frame.style.height = `${document.body.offsetHeight + 2}px`;
  }).observe(document.body);
}
