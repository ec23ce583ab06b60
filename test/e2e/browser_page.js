// A hostile page. It tries what pages can do to a server on loopback, and reports what it saw.
const here = new URL(document.currentScript.src);
const q = here.searchParams;
const targets = { control: q.get("control"), proxy: q.get("proxy"), api: q.get("api"), health: q.get("health") };
const phase = q.get("phase");
const body = '{"from":"a page"}';
const seen = [];
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

async function attempt(name, act) {
  let result;
  try {
    result = await Promise.race([act(), wait(4000).then(() => "silence")]);
  } catch (e) {
    result = "error " + e.name;
  }
  seen.push([name, String(result)]);
}

const answered = async (response) => `${response.type} ${response.status} ${(await response.text()).slice(0, 300)}`;

function image(url) {
  return new Promise((done) => {
    const i = new Image();
    i.onload = () => done("loaded");
    i.onerror = () => done("failed");
    i.src = url;
  });
}

function form(url, enctype) {
  return new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.name = "f" + Math.random();
    document.body.append(frame);
    const f = document.createElement("form");
    Object.assign(f, { method: "POST", action: url, enctype, target: frame.name });
    const field = document.createElement("input");
    Object.assign(field, { name: '{"from":"a page","x":"', value: '"}' });
    f.append(field);
    document.body.append(f);
    frame.onload = () => done("loaded");
    f.submit();
  });
}

function socket(url) {
  return new Promise((done) => {
    const w = new WebSocket(url.replace("http", "ws"));
    w.onopen = () => done("open");
    w.onerror = () => done("failed");
  });
}

async function cross(name, base) {
  const url = base + "/tools/ok";
  await attempt(name + " fetch", async () => answered(await fetch(url, { method: "POST", mode: "no-cors", body })));
  await attempt(name + " fetch json", async () => answered(await fetch(url, { method: "POST", body, headers: { "Content-Type": "application/json" } })));
  await attempt(name + " fetch get", async () => answered(await fetch(url, { mode: "no-cors" })));
  await attempt(name + " beacon", async () => navigator.sendBeacon(url, body));
  await attempt(name + " form", () => form(url, "application/x-www-form-urlencoded"));
  await attempt(name + " form text", () => form(url, "text/plain"));
  await attempt(name + " image", () => image(url + "?image"));
  await attempt(name + " socket", () => socket(url));
}

async function rebound() {
  const url = here.origin + "/tools/ok";
  await attempt("rebound fetch", async () => answered(await fetch(url, { method: "POST", body, headers: { "Content-Type": "application/json" } })));
  await attempt("rebound get", async () => answered(await fetch(url)));
  await attempt("rebound form", () => form(url, "text/plain"));
  await attempt("rebound image", () => image(url + "?image"));
  await attempt("rebound absolute", async () => answered(await fetch(here.origin + "/http://" + targets.control.slice(7) + "/tools/ok", { method: "POST", body })));
}

const report = (what) => fetch(targets.control + "/report?phase=" + what, { method: "POST", mode: "no-cors", body: JSON.stringify(seen) });

(async () => {
  if (phase === "cross") {
    for (const name of ["control", "proxy", "api", "health"]) await cross(name, targets[name]);
    await wait(300);
    await report("cross");
    return;
  }
  // The page was loaded under a name that now leads somewhere else.
  await report("loaded");
  for (;;) {
    const go = await fetch(targets.control + "/rebound", { mode: "cors" }).then((r) => r.text(), () => "");
    if (go === "yes") break;
    await wait(50);
  }
  await rebound();
  await report("rebound");
})();
