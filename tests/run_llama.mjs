// Greedy continuations by llama.cpp through node-llama-cpp, for test_export_slow.py: a job as JSON on stdin, token ids on
// stdout. The package is found below the folder in T2L_NODE_LLAMA.
import {readFileSync} from "fs";
import {createRequire} from "module";
import {pathToFileURL} from "url";

const require = createRequire(process.env.T2L_NODE_LLAMA + "/");
const {getLlama} = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const job = JSON.parse(readFileSync(0, "utf8"));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: 1});
const model = await llama.loadModel({modelPath: job.model, gpuLayers: 0});
const lora = job.adapter ? {lora: {adapters: [{filePath: job.adapter, scale: 1}]}} : {};
const context = await model.createContext({contextSize: 512, threads: 1, ...lora});
const sequence = context.getSequence();
const continuations = [];
for (const ids of job.ids) {
    await sequence.clearHistory();
    const found = [];
    for await (const token of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
        if (token === job.eos || found.length === job.count) break;
        found.push(token);
    }
    continuations.push(found);
}
const tokens = job.texts.map((text) => Array.from(model.tokenize(text, true)));
process.stdout.write(JSON.stringify({tokens, continuations}), () => process.exit(0));
