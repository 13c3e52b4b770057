"use strict";
// What a page does by itself: light or dark, whose clocks its times are of, and its countdowns.
(() => {
  const root = document.documentElement;
  const kept = (key) => { try { return localStorage.getItem(`prometheus_${key}`); } catch { return null; } };
  const keep = (key, value) => { try { localStorage.setItem(`prometheus_${key}`, value); } catch { /* then not */ } };

  const themes = ["light", "dark"];
  // At once, before anything is drawn in the other colours.
  if (themes.includes(kept("theme"))) root.dataset.theme = kept("theme");
  const isDark = () =>
    (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

  const clocks = ["utc", "exchange", "local"];
  const asked = new URLSearchParams(location.search).get("times");
  let times = [asked, kept("times")].find((each) => clocks.includes(each)) ?? "utc";
  const formats = new Map();
  const format = (zone, form) => {
    const key = `${zone} ${form}`;
    if (!formats.has(key)) {
      const date = form === "time" ? {} : form === "clock" ? { second: "2-digit" } : form === "day" ? { month: "2-digit", day: "2-digit" } : { year: "numeric", month: "2-digit", day: "2-digit", second: "2-digit" };
      const options = { ...date, hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone };
      formats.set(key, new Intl.DateTimeFormat("sv-SE", options));
    }
    return formats.get(key);
  };
  const local = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const zoneOf = (element) =>
    times === "local" ? local : times === "exchange" ? (element.dataset.zone ?? "UTC") : "UTC";

  const lengthOf = (seconds) => {
    const all = Math.max(0, Math.round(seconds));
    const [days, hours, minutes] = [Math.floor(all / 86400), Math.floor(all / 3600) % 24, Math.floor(all / 60) % 60];
    if (days) return `${days} d ${hours} h`;
    if (all >= 3600) return `${hours} h ${minutes} min`;
    return all >= 60 ? `${minutes} min ${all % 60} s` : `${all} s`;
  };

  let shownAt = Date.now();
  const writeTimes = () => {
    for (const each of document.querySelectorAll("[data-at]")) {
      const zone = zoneOf(each);
      const text = format(zone, each.dataset.form).format(new Date(each.dataset.at));
      // Of no exchange, where one asks for its clocks: it says whose it is; the page's own time does anyhow.
      const strange = times === "exchange" && !each.dataset.zone && each.tagName === "TIME" && !each.closest("#clock");
      const told = strange ? `${text} UTC` : text;
      if (each.textContent !== told) each.textContent = told;
      if (each.tagName === "TIME") each.title = `${text} ${zone}`;
    }
    const zone = document.querySelector(".standing .zone");
    if (zone) zone.textContent = times === "local" ? local : "UTC";
    for (const each of document.querySelectorAll("[data-times]")) {
      each.setAttribute("aria-pressed", String(each.dataset.times === times));
    }
  };
  const countDown = () => {
    const clock = document.getElementById("clock");
    if (!clock) return;
    const passed = (Date.now() - shownAt) * Number(clock.dataset.speed);
    const now = Date.parse(clock.dataset.marketAt) + passed;
    for (const each of document.querySelectorAll("[data-until]")) {
      each.textContent = lengthOf((Date.parse(each.dataset.until) - now) / 1000);
    }
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.times) {
      times = button.dataset.times;
      keep("times", times);
      const url = new URL(location.href);
      url.searchParams.set("times", times);
      history.replaceState(null, "", url);
      writeTimes();
    } else if (button && "themeSwitch" in button.dataset) {
      root.dataset.theme = isDark() ? "light" : "dark";
      keep("theme", root.dataset.theme);
    } else if (button && "signOut" in button.dataset) {
      signOut().catch((error) => alert(`You are still signed in. ${error.message}`));
    } else if (button?.dataset.do) {
      openAction(button);
    } else if (event.target.closest("[data-date]")) {
      const add = document.querySelector("[data-do][data-targets]");
      if (add) openAction(add, event.target.closest("[data-date]").dataset.date);
    } else if (button && "close" in button.dataset) {
      button.closest("dialog").close();
    }
  });

  // Whoever signs in goes on where that was asked for, which is a page of ours or the first one.
  const topUrl = () => new URL(document.body.dataset.top, location.href);
  const linkSignIns = () => {
    const here = encodeURIComponent(location.href.slice(topUrl().href.length));
    for (const each of document.querySelectorAll("[data-sign-in-link]")) each.href = `${document.body.dataset.signInPage}?next=${here}`;
  };
  const nextUrl = () => {
    const top = topUrl();
    try {
      const next = new URL(new URLSearchParams(location.search).get("next") ?? "", top);
      return next.origin === top.origin && next.pathname.startsWith(top.pathname) ? next : top;
    } catch { // it is no URL
      return top;
    }
  };
  const signIn = async (form) => {
    const asked = Object.fromEntries(new FormData(form));
    const told = form.querySelector("[role=alert]");
    told.hidden = true;
    try {
      const headers = { "Content-Type": "application/json" };
      const answer = await fetch(document.body.dataset.session, { method: "POST", headers, body: JSON.stringify(asked) });
      if (answer.ok) return location.assign(nextUrl());
      told.textContent = (await answer.json()).detail;
    } catch {
      told.textContent = "The server is not heard.";
    }
    told.hidden = false;
  };
  // What changes something says that it is from a page of ours.
  const send = async (url, method, body, more) => {
    const who = await (await fetch(document.body.dataset.session)).json();
    const headers = { "Content-Type": "application/json", "X-CSRF-Token": who.csrf_token ?? "", ...more };
    return fetch(url, { method, headers, body });
  };

  // While it is left the page asks for nothing: it would do so as nobody. It keeps the stream, which
  // another page would be given while the session has not ended yet, and hold as nobody.
  let isLeft = false;
  const isDeaf = () => document.hidden || isLeft;
  const signOut = async () => {
    try {
      isLeft = true;
      for (const each of live()) each.dispatchEvent(new Event("htmx:abort"));
      const answer = await send(document.body.dataset.session, "DELETE");
      if (!answer.ok && answer.status !== 401) throw new Error((await answer.json()).detail);
      location.assign(document.body.dataset.signInPage);
    } catch (error) {
      isLeft = false;
      throw error;
    }
  };
  // What a button does is told and asked for in one dialog, which no change of the page takes away.
  let opening = 0;

  const fieldsOf = (form) => form.querySelectorAll(":is(input, select):enabled");
  const offer = (form, name, offered) => {
    const label = form.querySelector(`[data-field=${name}]`);
    label.hidden = !offered;
    label.querySelector("input, select").disabled = !offered; // and so neither required nor sent
  };
  // An override of one kind has times that one of another has not.
  const offerTimes = (form) => {
    const kind = form.elements.kind;
    if (kind.disabled) return;
    const takes = kind.selectedOptions[0].dataset.takes.split(" ");
    for (const name of ["open", "close", "breaks", "zone"]) offer(form, name, takes.includes(name));
  };

  // Where it is shown first what will change: by what the server knows whether that is still so.
  let seen = null;
  const forget = (form) => {
    seen = null;
    document.getElementById("action-preview").hidden = true;
    form.querySelector("[type=submit]").textContent = form.dataset.preview ? "Show what changes" : form.dataset.name;
  };
  const rest = (button, mine) => {
    // Who presses twice has not read it.
    button.disabled = true;
    setTimeout(() => { if (mine === opening) button.disabled = false; }, 500);
  };

  const openAction = (button, session) => {
    const dialog = document.getElementById("action");
    const form = dialog.querySelector("form");
    const asks = button.dataset.asks.split(" ");
    const mine = ++opening;
    const doIt = form.querySelector("[type=submit]");
    form.reset();
    rest(doIt, mine);
    for (const label of form.querySelectorAll("[data-field]")) offer(form, label.dataset.field, asks.includes(label.dataset.field));
    form.elements.target.replaceChildren(...(button.dataset.targets ?? "").split(" ").map((each) => new Option(each)));
    form.elements.session.value = session ?? "";
    offerTimes(form);
    form.dataset.url = button.dataset.do;
    form.dataset.preview = button.dataset.preview ?? "";
    form.dataset.name = button.textContent;
    form.dataset.body = button.dataset.body;
    form.dataset.group = button.parentElement.getAttribute("aria-label");
    document.getElementById("action-name").textContent = `${button.textContent}: ${form.dataset.group}`;
    document.getElementById("action-told").textContent = button.dataset.told;
    forget(form);
    form.querySelector("[role=alert]").hidden = true;
    dialog.showModal();
    // Enter alone then does nothing, but where something has to be written first.
    dialog.querySelector("select:enabled, input:enabled[name=reason]:required, [data-close]").focus();
  };

  document.addEventListener("keydown", (event) => {
    if (event.repeat && event.key === "Enter" && event.target.closest("dialog, [data-do]")) event.preventDefault();
  });

  const bodyOf = (form) => {
    const body = JSON.parse(form.dataset.body);
    for (const input of fieldsOf(form)) {
      if (input.type === "checkbox") body[input.name] = input.checked;
      else if (input.value.trim()) body[input.name] = input.value.trim();
    }
    if (seen !== null) Object.assign(body, seen);
    return JSON.stringify(body);
  };

  document.addEventListener("input", (event) => {
    const form = event.target.closest("form[data-action]");
    if (!form) return;
    if (event.target.name === "kind") offerTimes(form);
    if (seen !== null) forget(form);
  });

  const made = (name, ...parts) => {
    const element = document.createElement(name);
    element.append(...parts);
    return element;
  };
  const instant = (at, zone) => {
    const element = made("time");
    Object.assign(element.dataset, { at, form: "stamp", ...(zone && { zone }) });
    return element;
  };
  const stateAt = (intervals, at) => intervals.find((each) => each.from <= at && at < each.to)?.state;
  const windowOf = (window, zone) => (window ? [instant(window.opens_at, zone), " to ", instant(window.closes_at, zone)] : ["none"]);
  const differ = (one, other) => JSON.stringify(one) !== JSON.stringify(other);

  const statesOf = (market, { before, after, others, zone }) => {
    const starts = [...new Set([...before, ...after].map((each) => each.from))].sort();
    const changed = starts.filter((at) => stateAt(before, at) !== stateAt(after, at));
    if (!changed.length) return [made("li", `${market} does not change${others.length ? `: open at ${others.join(", ")}` : ""}`)];
    return changed.map((at) => made("li", `${market} from `, instant(at, zone), `: ${stateAt(before, at)} → ${stateAt(after, at)}`));
  };
  const jobsOf = (run, zone) => run.jobs.flatMap((job) => {
    const told = [];
    if (job.before !== job.after) told.push([`${job.before} → ${job.after}`]);
    const waits = ["PENDING", "QUEUED", "RUNNING"].includes(job.after);
    if (waits && job.window_after && differ(job.window_before, job.window_after)) {
      told.push(["window ", ...windowOf(job.window_after, zone), " instead of ", ...windowOf(job.window_before, zone)]);
    }
    if (waits && job.gives_up_after && job.gives_up_before !== job.gives_up_after) told.push(["gives up at ", instant(job.gives_up_after, zone)]);
    return told.length ? [made("li", ...told.flatMap((each, at) => [at ? ", " : `${job.job}: `, ...each]))] : [];
  });
  const showPreview = (...parts) => {
    const region = document.getElementById("action-preview");
    region.replaceChildren(...parts);
    writeTimes();
    region.hidden = false;
    region.focus();
  };
  const showPlan = (found) => {
    const counts = Object.entries(found.counts).map(([effect, count]) => `${count} ${effect}`);
    const sessions = found.sessions.map((each) => made("li", `${each.session_date}: ${each.effect}${each.why ? `, ${each.why}` : ""}`));
    showPreview(made("p", `${counts.join(", ")}.`), made("ul", ...sessions));
  };
  const changesOf = (found) => {
    const runs = found.runs.map((run) => {
      const line = made("li", `${run.dag_id}: ${run.told}${run.status ? `, then ${run.status}` : ""}`);
      const jobs = jobsOf(run, found.states[run.market]?.zone);
      if (jobs.length) line.append(made("ul", ...jobs));
      return line;
    });
    const states = Object.entries(found.states).flatMap(([market, change]) => statesOf(market, change));
    const over = found.is_over ? [made("p", "That session is over: runs that have finished stay as they are.")] : [];
    return [made("ul", ...states), ...over, runs.length ? made("ul", ...runs) : made("p", "No run changes.")];
  };
  const showDecisions = (found) => {
    showPreview(...found.decisions.flatMap((each) => {
      const earlier = each.earlier ? ` It was ${each.earlier.state} before, by ${each.earlier.decided_by}: ${each.earlier.reason}` : "";
      const told = made("p", `${each.exchange} ${each.date}: ${each.proposed} (${each.name}), ${each.state}.${earlier}`);
      return [told, ...(each.change ? changesOf(each.change) : [made("p", "The calendar does not change.")])];
    }));
  };

  const preview = async (form) => {
    const mine = opening;
    const told = form.querySelector("[role=alert]");
    const button = form.querySelector("[type=submit]");
    const body = bodyOf(form);
    let words = "The server is not heard.";
    told.hidden = button.disabled = true;
    try {
      const answer = await send(form.dataset.preview, "POST", body);
      const reply = await answer.json();
      if (mine !== opening) return;
      if (body !== bodyOf(form)) { // it was changed meanwhile, and is asked again
        button.disabled = false;
        return;
      }
      if (answer.ok) {
        // What the action says that it was shown, which the server holds against how things stand.
        if ("decisions" in reply) showDecisions(reply);
        else if ("sessions" in reply) showPlan(reply);
        else showPreview(...changesOf(reply));
        seen = "plan" in reply ? { plan: reply.plan } : { latest: reply.latest };
        button.textContent = form.dataset.name;
        return rest(button, mine);
      }
      words = reply.detail;
    } catch { /* as above */ }
    if (mine !== opening) return;
    told.textContent = words;
    told.hidden = button.disabled = false;
  };

  const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (each) => each.toString(16).padStart(2, "0")).join("");

  // What was asked and not answered -> its key: the same again, whenever on this page, is done once.
  const unanswered = new Map();
  let lastGroup = null;

  const act = async (form) => {
    const [url, body, group, mine] = [form.dataset.url, bodyOf(form), form.dataset.group, opening];
    const name = document.getElementById("action-name").textContent;
    const dialog = form.closest("dialog");
    const isOpen = () => dialog.open && mine === opening;
    const told = form.querySelector("[role=alert]");
    const button = form.querySelector("[type=submit]");
    const asked = `${url} ${body}`;
    const key = unanswered.get(asked) ?? newKey();
    unanswered.set(asked, key);
    told.hidden = button.disabled = true;
    let refused = false;
    let words = "The server is not heard, so it is not known whether it was done. To press again does it once.";
    try {
      const answer = await send(url, "POST", body, { "Idempotency-Key": key });
      const reply = await answer.json();
      if (answer.status < 500) unanswered.delete(asked); // of others it is not known
      if (answer.ok) {
        if (isOpen()) dialog.close();
        lastGroup = group;
        return tell(wordsOf(name, reply, answer.headers.has("Idempotency-Replayed")));
      }
      words = reply.detail;
      refused = true;
    } catch { /* as above */ }
    if (!isOpen()) return tell(`${name}: ${words}`);
    if (refused) forget(form);
    told.textContent = words;
    told.hidden = button.disabled = false;
  };

  const namedPause = ({ market, pipeline, dag_id, job }) => {
    if (dag_id) return `${job} of ${dag_id}`;
    return pipeline ? `pipeline ${pipeline}${market ? ` in ${market}` : ""}` : `market ${market}`;
  };
  const wordsOf = (name, reply, before) => {
    const jobs = (reply.jobs ?? []).map((each) => each.job ?? each);
    const paused = (reply.paused ?? []).map(namedPause);
    return `Done by ${reply.actor}${before ? ", when it was asked before and no answer was heard" : ""}. `
      + `${name}${jobs.length ? ` (${jobs.join(", ")})` : ""}.`
      + (paused.length ? ` Paused, so it waits: ${paused.join("; ")}.` : "")
      + (reply.scheduler ? "" : " No scheduler is at work: nothing follows until one is.");
  };

  const tell = (words) => {
    const done = document.getElementById("done");
    done.textContent = words;
    done.hidden = false;
  };

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if ("signIn" in form.dataset) signIn(form);
    else if ("action" in form.dataset) (form.dataset.preview && seen === null ? preview : act)(form);
    else return;
    event.preventDefault();
  });

  // A page is fresh while it has what the server has; it asks for itself again when it has not.
  let freshAt = Date.now();
  let looksSince = freshAt; // a hidden page hears nothing, and when it is looked at has not been told yet
  const live = () => [...document.querySelectorAll("[data-live]")]; // the page first, and then its parts
  let wrong = null; // why it is not told anything: status and words, and whether it asked itself
  const isFresh = () => {
    freshAt = Date.now();
    wrong = null;
  };
  const refusal = (status, words) => ({ status, words: status === 401 ? "Your sign-in has ended." : words || `The server answers ${status}.` });
  // A stream that is refused does not say why.
  const refusalOf = async (url) => {
    const asking = new AbortController();
    try {
      const answer = await fetch(url, { signal: asking.signal });
      if (answer.ok) return null;
      return refusal(answer.status, (await answer.json().catch(() => ({}))).detail);
    } catch {
      return null; // the server is not heard
    } finally {
      asking.abort();
    }
  };
  // Of all that was told only what it shows concerns it.
  const isBehind = (each, told) => {
    if (!each.dataset.shows) return true; // of another release, while it is changed
    const has = JSON.parse(each.dataset.version);
    return JSON.parse(each.dataset.shows).some((scope) => has[scope] !== told[scope]);
  };
  const hear = ({ version, refused }) => {
    if (isDeaf()) return;
    if (version === undefined) {
      wrong = refused;
      return;
    }
    const told = JSON.parse(version);
    const [behind, page] = [live().filter((each) => isBehind(each, told)), live()[0]];
    // Not where what it asked for itself was refused: that it has missed nothing else is told to all.
    if (!behind.includes(page) && !wrong?.own) isFresh();
    for (const each of behind) each.dispatchEvent(new Event("changed"));
  };
  // A browser has six connections to a host, so its pages share a stream: one that is looked at
  // holds it, and passes on what it hears. When it is hidden or gone, the lock is another one's.
  const follow = () => {
    const url = new URL(document.body.dataset.events, location.href).href;
    const pages = new BroadcastChannel(url);
    pages.addEventListener("message", (event) => hear(event.data));
    const pass = (heard) => {
      hear(heard);
      pages.postMessage(heard);
    };
    const listen = (signal) => new Promise((done) => {
      let stream, again;
      const open = () => {
        stream = new EventSource(url);
        stream.addEventListener("seen", (event) => pass({ version: event.data }));
        stream.addEventListener("error", async () => {
          // After a refusal the browser does not try again by itself.
          if (stream.readyState !== EventSource.CLOSED) return;
          again = setTimeout(open, 5000);
          const refused = await refusalOf(url);
          if (!signal.aborted) pass({ refused });
        });
      };
      const stop = () => {
        clearTimeout(again);
        stream?.close();
        done();
      };
      signal.addEventListener("abort", stop);
      if (signal.aborted) stop();
      else open();
    });
    let looked = null;
    const turn = () => {
      if (document.hidden) {
        looked?.abort();
        looked = null;
      } else if (!looked) {
        looked = new AbortController();
        looksSince = Date.now();
        const { signal } = looked;
        // Without https, pages of another machine have no locks, and a stream each.
        if (!navigator.locks) listen(signal);
        else navigator.locks.request(url, { signal }, () => listen(signal)).catch(() => { /* hidden before its turn came */ });
      }
    };
    document.addEventListener("visibilitychange", turn);
    turn();
  };
  const tellAge = () => {
    const age = Math.round((Date.now() - freshAt) / 1000);
    const stale = document.getElementById("stale");
    stale.hidden = !wrong && Math.min(age, (Date.now() - looksSince) / 1000) <= 5;
    const [told, link, old] = stale.children;
    const words = stale.hidden ? "" : wrong?.words ?? "The server is not heard.";
    if (told.textContent !== words) told.textContent = words; // which is read out, and the age is not
    link.hidden = wrong?.status !== 401;
    old.textContent = `Data ${lengthOf(age)} old.`;
  };
  document.addEventListener("htmx:response:error", (event) => {
    if (event.target !== live()[0]) return;
    const { response, text } = event.detail.ctx;
    const problem = new DOMParser().parseFromString(text, "text/html").querySelector("main .warning");
    wrong = { ...refusal(response.status, problem?.textContent), own: true };
  });
  document.addEventListener("htmx:after:swap", (event) => {
    if (event.target === live()[0] && event.detail.ctx.swap !== "none") { // as it is of what was refused
      isFresh();
      shownAt = freshAt;
    }
    // The button that was pressed may have become another, and whoever pressed it goes on from there.
    if (lastGroup && document.activeElement === document.body) {
      document.querySelector(`.buttons[aria-label="${CSS.escape(lastGroup)}"] button`)?.focus();
      lastGroup = null;
    }
    writeTimes();
    countDown();
  });
  document.addEventListener("DOMContentLoaded", () => {
    writeTimes();
    countDown();
    setInterval(countDown, 1000);
    linkSignIns();
    if (!live().length) return;
    follow();
    setInterval(tellAge, 1000);
    // What grows old without a change: leases, and how long something has waited.
    const ageing = () => document.querySelectorAll("[data-ages]");
    setInterval(() => { if (!isDeaf()) for (const each of ageing()) each.dispatchEvent(new Event("changed")); }, 2000);
  });
})();
